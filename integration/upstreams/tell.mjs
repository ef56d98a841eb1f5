// What upstreams and clients tell the test goes to standard output, one JSON object a line. They end with their
// standard input, so that nothing is left of a test that was killed.

export const tell = (what) => {
  process.stdout.write(JSON.stringify({...what, at: Date.now() * 1e6}) + '\n');
};

process.stdin.on('end', () => process.exit()).resume();
