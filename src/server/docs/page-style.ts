/**
 * The style of the page, after Swagger UI's own:
 * 1. Layout: the first route is on the first screen, and nothing is wider than a screen of 400 px.
 * 2. Contrast: text that Swagger UI draws too faint.
 * 3. Dark colors where the browser asks for them: text inherits one color, surfaces become dark.
 */
export const style = `
body { margin: 0; }
.swagger-ui .wrapper { padding: 0 16px; }
.swagger-ui .info { margin: 16px 0 8px; }
.swagger-ui .info .title { margin: 0; font-size: 28px; }
.swagger-ui .info hgroup.main { margin: 0 0 8px; }
.swagger-ui .info .base-url, .swagger-ui .servers, .swagger-ui .servers-title, .info__license { display: none; }
.swagger-ui .scheme-container { background: none; box-shadow: none; margin: 0; padding: 0; }
.swagger-ui .scheme-container .schemes { margin: 0 0 8px; }
.swagger-ui .scheme-container:not(:has(.auth-wrapper)) { display: none; }
.swagger-ui .opblock-tag { align-items: baseline; flex-wrap: wrap; padding: 8px 0; }
.swagger-ui .opblock-tag small { flex: 1 1 16em; padding: 0 8px; }
.swagger-ui .opblock-tag-section { margin-bottom: 8px; }
.search { align-items: center; display: flex; flex-wrap: wrap; gap: 8px; margin-bottom: 8px; }
.search input { flex: 1 1 16em; min-width: 0; }
.swagger-ui .search input { margin: 0; max-width: none; }
.more { margin: 0 0 12px; }
.more summary { cursor: pointer; font-size: 14px; }
.more > :is(.markdown, .renderedMarkdown) { overflow-x: auto; }
.more table { min-width: 600px; }
.swagger-ui .more tr :is(td, th):nth-of-type(n) { max-width: none; padding: 4px 12px 4px 0; text-align: left; vertical-align: top; }
.swagger-ui :is(.markdown, .renderedMarkdown) :is(p, li, td) { line-height: 1.5; }
.swagger-ui :is(.markdown, .renderedMarkdown) code { overflow-wrap: anywhere; padding: 0 4px; }
.swagger-ui .opblock .opblock-summary-path { max-width: none; }

.swagger-ui .info a { color: #2f6fbf; }
.swagger-ui .info .title small { background: #4c5260; }
.swagger-ui .info .title small.version-stamp { background: #4a7300; }
.swagger-ui .parameter__in { color: #666; }
.swagger-ui .microlight span[style*="211, 99, 99"] { color: #ff9e9e !important; }

dialog { border: 1px solid #888; border-radius: 8px; font: 14px sans-serif; max-width: min(600px, calc(100vw - 64px)); }
dialog h2 { font-size: 18px; margin: 0 0 12px; }
dialog code { display: block; font-size: 13px; margin: 12px 0; overflow-wrap: anywhere; }
dialog footer { display: flex; gap: 12px; justify-content: flex-end; }
dialog button { border: 1px solid #888; border-radius: 4px; cursor: pointer; font: inherit; padding: 6px 20px; }
dialog button[value=send] { background: #2f6fbf; border-color: #2f6fbf; color: #fff; }
dialog::backdrop { background: rgb(0 0 0 / 50%); }

@media (max-width: 700px) {
  .search input { flex-basis: 100%; }
  .swagger-ui .opblock-summary-control { flex-wrap: wrap; min-width: 0; text-align: left; }
  .swagger-ui .opblock-summary-description { flex-basis: 100%; padding: 0 8px 4px; }
  .swagger-ui table.parameters, .swagger-ui table.parameters :is(thead, tbody, tr, td),
  .swagger-ui table.responses-table, .swagger-ui table.responses-table :is(tbody, tr, td) { display: block; width: auto; }
  .swagger-ui table :is(thead, .col_header) { display: none; }
  .swagger-ui .parameters-col_description { width: auto; }
  .swagger-ui .parameters-col_description :is(input, select), .swagger-ui select { max-width: 100%; min-width: 0; }
  .swagger-ui .response-col_links { display: none; }
  .swagger-ui :is(.opblock-section-header, .opblock-section-request-body > div) { flex-wrap: wrap; }
}

@media (prefers-color-scheme: dark) {
  :root { color-scheme: dark; }
  body { background: #16181d; color: #d8dce4; }
  .swagger-ui { color: inherit; }
  .swagger-ui :not(a, a *, code, code *, .btn, .btn *, .opblock-summary-method, .microlight *, .version-stamp *, .required span) {
    color: inherit !important;
  }
  .swagger-ui :is(.info a, .markdown a, .renderedMarkdown a, .link) { color: #7db3ff; }
  .swagger-ui a.nostyle { color: inherit; }
  .swagger-ui :is(.markdown, .renderedMarkdown) code { background: #262a33; color: #d3a4ff; }
  .swagger-ui .btn { border-color: #7a8294; color: inherit; }
  .swagger-ui .btn.execute { color: #fff; }
  .swagger-ui .required::after { color: #ff8080; }
  .swagger-ui :is(input, select, textarea, .modal-ux, .filter-container input) { background: #0f1116 !important; border-color: #4a5160; }
  .swagger-ui :is(.opblock-section-header, .tab-header, .responses-wrapper .opblock-section-header) { background: #1e222a; box-shadow: none; }
  .swagger-ui :is(.opblock-tag, .modal-ux-header, table thead tr :is(td, th), .auth-container) { border-color: #3a404c; }
  .swagger-ui :is(.model-box, section.models) { background: #1e222a; border-color: #3a404c; }
  .swagger-ui svg { fill: currentcolor; }
  dialog { background: #1e222a; color: inherit; }
}
`;
