import './styles.css';
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { session } from './api/session.ts';
import { App } from './shell/app.tsx';

const root = document.getElementById('root');
if (root === null) throw new Error('index.html has no element #root');
// Its link is relative to the address that was opened, and the address changes.
const icon = document.querySelector<HTMLLinkElement>('link[rel="icon"]');
icon?.setAttribute('href', icon.href);
session.open();
createRoot(root).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
