/** Shown where the built files of the console are missing. */
export const notBuiltPage = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>sendbatch: the console is not built</title>
</head>
<body>
<main>
<h1>The console is not built</h1>
<p>This checkout has no folder <code>gen/console</code>. Build it, then reload this page:</p>
<pre>npm run build:console</pre>
<p>The service itself runs. Its API is described at <code>/docs</code>.</p>
</main>
</body>
</html>
`;
