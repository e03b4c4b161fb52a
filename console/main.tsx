import './styles.css';
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { session } from './api/session.ts';
import { App } from './shell/app.tsx';

const root = document.getElementById('root');
if (root === null) throw new Error('index.html has no element #root');
session.open();
createRoot(root).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
