// A parser leaves reconnecting to its user.
import {createParser} from 'eventsource-parser';
import {tell, url} from './tell.mjs';

let lastEventID = '';
let retry = 1000;

for (;;) {
  const parser = createParser({
    onEvent(event) {
      if (event.id !== undefined) lastEventID = event.id;
      tell({data: event.data, id: lastEventID});
    },
    onRetry(interval) {
      retry = interval;
    },
    onError(error) {
      throw error;
    },
  });
  try {
    const headers = {Accept: 'text/event-stream'};
    if (lastEventID !== '') headers['Last-Event-ID'] = lastEventID;
    const response = await fetch(url, {headers});
    if (!response.ok) throw new Error(`status ${response.status}`);
    for await (const text of response.body.pipeThrough(new TextDecoderStream())) parser.feed(text);
  } catch (error) {
    console.error('error:', error.message);
  }
  await new Promise((resolve) => setTimeout(resolve, retry));
}
