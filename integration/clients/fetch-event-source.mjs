// It is made for browsers: these are the parts of one that it looks for.
globalThis.window = globalThis;
globalThis.document = {hidden: false, addEventListener() {}, removeEventListener() {}};

const {fetchEventSource} = await import('@microsoft/fetch-event-source');
const {tell, url} = await import('./tell.mjs');

await fetchEventSource(url, {
  onmessage(event) {
    // Other than the standard says, it calls this for blocks without data too: heartbeats, and those that only set
    // the last event ID.
    if (event.data !== '') tell(event);
  },
  onclose() {
    throw new Error('the stream ended'); // to come back, as EventSource does
  },
  onerror(error) {
    console.error('error:', error.message);
  },
});
