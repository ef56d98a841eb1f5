// Asks a model and, when the connection is cut, asks again with the last event ID.

// It is made for browsers: these are the parts of one that it looks for.
globalThis.window = globalThis;
globalThis.document = {hidden: false, addEventListener() {}, removeEventListener() {}};

const {fetchEventSource} = await import('@microsoft/fetch-event-source');
const {tell, url} = await import('./tell.mjs');

await fetchEventSource(url, {
  method: 'POST',
  headers: {'Content-Type': 'application/json', Authorization: 'Bearer mine'},
  body: JSON.stringify({model: 'long'}),
  onmessage(event) {
    if (event.data !== '') tell(event);
  },
  onerror(error) {
    console.error('error:', error.message);
  },
});
