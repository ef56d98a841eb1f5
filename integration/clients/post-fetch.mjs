// Asks a model and, when the connection is cut, comes back with fetch alone: a GET with the last event ID.
import {createParser} from 'eventsource-parser';
import {tell, url} from './tell.mjs';

let lastEventID = '';
let ended = false;

while (!ended) {
  const parser = createParser({
    onEvent(event) {
      if (event.id !== undefined) lastEventID = event.id;
      tell({data: event.data, id: lastEventID});
      ended ||= event.data === '[DONE]';
    },
  });
  const request = lastEventID === ''
    ? {method: 'POST', body: JSON.stringify({model: 'long'}), headers: {'Content-Type': 'application/json'}}
    : {headers: {'Last-Event-ID': lastEventID}};
  request.headers.Authorization = 'Bearer mine';
  try {
    const response = await fetch(url, request);
    if (!response.ok) throw new Error(`status ${response.status}`);
    for await (const text of response.body.pipeThrough(new TextDecoderStream())) parser.feed(text);
  } catch (error) {
    console.error('error:', error.message);
  }
}
