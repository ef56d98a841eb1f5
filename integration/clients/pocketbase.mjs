// Users of a PocketBase, each with an SDK of his own, who want to be told of notes. Who may see which is the
// application's affair.
//
// Lines of the standard input: "join <from> <to>" lets these users subscribe, all at once; "note <user> <text>" lets one
// write a note.

import {EventSource} from 'eventsource';
import PocketBase, {ClientResponseError} from 'pocketbase';
import {line, result, tell} from './results.mjs';

globalThis.EventSource = EventSource; // the SDK uses the browser's

const [, , url] = process.argv;
const users = [];

const join = async (user) => {
  const pb = new PocketBase(url);
  pb.autoCancellation(false);
  users[user] = pb;
  await pb.collection('users').authWithPassword(`user${user}@example.com`, 'correct horse');
  await pb.collection('notes').subscribe('*', ({action, record}) => tell('told', {user, action, text: record.text}));
  return {user};
};

const commands = {
  join: async (from, to) => {
    const all = [];
    for (let user = Number(from); user < Number(to); user++) all.push(result('joined', () => join(user)));
    await Promise.all(all);
  },
  note: (user, text) => users[user].collection('notes').create({text, owner: users[user].authStore.record.id}),
};

for (let command = await line(); !command.done; command = await line()) {
  const [name, ...words] = command.value.split(' ');
  try {
    await commands[name](...words);
  } catch (error) {
    if (!(error instanceof ClientResponseError)) throw error;
    tell('failed', {command: command.value, status: error.status, message: error.message});
  }
}
