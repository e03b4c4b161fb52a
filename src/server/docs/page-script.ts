/**
 * Starts Swagger UI, with replacements:
 * 1. By default all operations render at every change; here a closed one renders only when its
 *    heading changes.
 * 2. The default resolver copies the whole document for each operation; here all references point
 *    into the document. These two halve the CPU time of opening an operation.
 * 3. Long descriptions show their first paragraph, and the rest when it is opened.
 * 4. The search finds operations by method, path, summary and service; Swagger UI finds services
 *    only.
 * 5. A call is sent after a dialog has named its method, its URL and what it does.
 * No validator: the page would call its own address for it.
 */
export const script = `const pointerOf = (reference) =>
  reference.slice(2).split('/').map((step) => decodeURIComponent(step).replaceAll('~1', '/').replaceAll('~0', '~'));
const at = (document, path) => path.reduce((value, step) => value?.[step], document);
const resolved = (document, value, within) => {
  if (Array.isArray(value)) return value.map((each) => resolved(document, each, within));
  if (typeof value !== 'object' || value === null) return value;
  const { $ref, ...rest } = value;
  if (typeof $ref === 'string' && $ref.startsWith('#/') && !within.includes($ref)) {
    const target = resolved(document, at(document, pointerOf($ref)), [...within, $ref]);
    return { ...target, ...resolved(document, rest, within) };
  }
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, resolved(document, each, within)]));
};
const lean = {
  fn: {
    resolveSubtree: async (document, path) => ({ spec: resolved(document, at(document, path), []), errors: [] }),
  },
  wrapComponents: {
    OperationContainer: (Operation) =>
      class extends Operation {
        shouldComponentUpdate(next) {
          const { isShown, isAuthorized, showSummary } = this.props;
          return isShown || next.isShown || next.isAuthorized !== isAuthorized || next.showSummary !== showSummary;
        }
      },
  },
};

/** The first paragraph, and the rest. */
const split = (text = '') => {
  const end = text.indexOf('\\n\\n');
  return end === -1 ? [text, ''] : [text.slice(0, end), text.slice(end)];
};
const short = ({ React, getComponent, specSelectors }) => {
  const more = (title, source) =>
    source === ''
      ? null
      : React.createElement(
          'details',
          { className: 'more', key: title },
          React.createElement('summary', null, title),
          React.createElement(getComponent('Markdown', true), { source }),
        );
  return {
    statePlugins: {
      spec: { wrapSelectors: { selectInfoDescriptionField: () => () => split(specSelectors.info().get('description'))[0] } },
    },
    wrapComponents: {
      InfoContainer: (Info) => (props) =>
        React.createElement(
          'div',
          null,
          React.createElement(Info, props),
          more('Conventions and error reasons', split(specSelectors.info().get('description'))[1]),
        ),
      OperationTag: (Tag) => (props) => {
        const path = ['tagDetails', 'description'];
        const [first, rest] = split(props.tagObj.getIn(path));
        const tagObj = first === '' ? props.tagObj : props.tagObj.setIn(path, first);
        return React.createElement(Tag, { ...props, tagObj }, more('About ' + props.tag, rest), props.children);
      },
    },
  };
};

const search = ({ React }) => ({
  fn: {
    opsFilter: (tags, phrase) => {
      const words = phrase.toLowerCase().split(' ');
      const matches = (tag) => (each) => {
        const names = [each.get('method'), each.get('path'), each.getIn(['operation', 'summary']), each.get('id'), tag];
        const text = names.join(' ').toLowerCase();
        return words.every((word) => text.includes(word));
      };
      return tags
        .map((group, tag) => group.update('operations', (operations) => operations.filter(matches(tag))))
        .filter((group) => group.get('operations').size > 0);
    },
  },
  wrapComponents: {
    FilterContainer: () => ({ layoutSelectors, layoutActions, specSelectors }) => {
      const phrase = layoutSelectors.currentFilter();
      const found = specSelectors.taggedOperations().reduce((sum, group) => sum + group.get('operations').size, 0);
      return React.createElement(
        'div',
        { className: 'search wrapper' },
        React.createElement('input', {
          type: 'search',
          'aria-label': 'Search operations',
          placeholder: 'Search operations: path, summary, service',
          value: typeof phrase === 'string' ? phrase : '',
          onChange: ({ target }) => layoutActions.updateFilter(target.value),
        }),
        React.createElement('span', { role: 'status' }, found + (found === 1 ? ' operation' : ' operations')),
      );
    },
    operations: (Operations) => (props) =>
      props.specSelectors.taggedOperations().size === 0 ? null : React.createElement(Operations, props),
  },
});

/** What the call does that is about to be sent. */
let summary = '';
const remember = {
  statePlugins: {
    spec: {
      wrapActions: {
        executeRequest: (execute) => (request) => {
          summary = request.operation.get('summary');
          return execute(request);
        },
      },
    },
  },
};
const dialog = document.querySelector('dialog');
for (const button of dialog.querySelectorAll('button'))
  button.addEventListener('click', () => dialog.close(button.value));
const confirmed = ({ method, url }) => {
  dialog.querySelector('p').textContent = summary + '.';
  dialog.querySelector('code').textContent = method.toUpperCase() + ' ' + new URL(url, location.href).href;
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'send'), { once: true }),
  );
};

SwaggerUIBundle({
  url: 'openapi.json',
  dom_id: '#docs',
  plugins: [lean, short, search, remember],
  deepLinking: true,
  docExpansion: 'list',
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  filter: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  // A cancelled call has no other request to show.
  showMutatedRequest: false,
  requestInterceptor: async (request) => {
    if (request.loadSpec || (await confirmed(request))) return request;
    throw new Error('the call was cancelled, nothing was sent');
  },
});
`;
