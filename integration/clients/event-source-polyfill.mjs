// It brings its last event ID in the query.
import polyfill from 'event-source-polyfill';
import {tell, url} from './tell.mjs';

const source = new polyfill.EventSourcePolyfill(url);
source.onmessage = tell;
source.onerror = (event) => console.error('error:', event.error?.message);
