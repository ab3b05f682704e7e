const escaped = (text) => String(text).replace(/[&<>"']/g, (character) => `&#${character.codePointAt(0)};`);

const page = (title, body) => `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>${escaped(title)}</title>
<h1>${escaped(title)}</h1>
${body}
</html>
`;

export function filesPage(files) {
  const items = files.map(
    ({ key, name }) => `<li><a href="/files/${encodeURIComponent(key)}">${escaped(name ?? key)}</a>`,
  );
  return page(
    'Files',
    `<ul>${items.join('\n')}</ul>
<form action="/upload"><label>Name <input name="name" required></label> <button>Upload a file</button></form>`,
  );
}

/** A form that goes to the bucket, not to this server: the fields of the presigned post, and the file as the last one. */
export function uploadPage(name, post) {
  const fields = Object.entries(post.fields).map(
    ([field, value]) => `<input type="hidden" name="${escaped(field)}" value="${escaped(value)}">`,
  );
  return page(
    `Upload ${name}`,
    `<form id="upload" method="post" enctype="multipart/form-data" action="${escaped(post.url)}">
${fields.join('\n')}
<input type="file" name="file" required> <button>Upload</button></form>`,
  );
}

export function messagePage(title, message) {
  return page(title, `<p id="message">${escaped(message)}</p><p><a href="/">All files</a></p>`);
}
