import {EventSource} from 'eventsource';
import {tell, url} from './tell.mjs';

const source = new EventSource(url);
source.onmessage = tell;
source.onerror = (event) => console.error('error:', event.code, event.message);
