// What a client tells the test goes to standard output, one JSON object a line. It ends with its standard input, so
// that nothing is left of a test that was killed.

export const [, , url] = process.argv;

export const tell = (event) => {
  process.stdout.write(JSON.stringify({event: 'message', data: event.data, id: event.lastEventId ?? event.id}) + '\n');
};

process.stdin.on('end', () => process.exit()).resume();
