
'use strict';
// The live page of caddy-sse. It is fed by event streams of the admin API, below the folder that the page is in. Whatever
// comes from outside (paths, events) is only ever set as text.
(() => {
  const HISTORY = 60; // looks that a graph shows, one a second
  const TAIL = 200; // blocks that the tail shows
  const byId = (id) => document.getElementById(id);

  // ---- making elements

  function make(tag, className, text) {
    const e = document.createElement(tag);
    if (className) e.className = className;
    if (text !== undefined) e.textContent = text;
    return e;
  }

  // setText leaves what is as it should be, so that screen readers and selections are not disturbed.
  function setText(e, text) {
    if (e.textContent !== text) e.textContent = text;
  }

  function setState(e, text, state) {
    setText(e, text);
    if (e.dataset.state !== state) e.dataset.state = state;
  }

  const SVG = 'http://www.w3.org/2000/svg';

  // graph makes a graph of the last values. The value itself stands beside it, as text.
  function graph() {
    const svg = document.createElementNS(SVG, 'svg');
    svg.setAttribute('viewBox', `0 0 ${HISTORY - 1} 20`);
    svg.setAttribute('preserveAspectRatio', 'none');
    svg.setAttribute('aria-hidden', 'true');
    const area = document.createElementNS(SVG, 'path');
    area.setAttribute('class', 'area');
    const line = document.createElementNS(SVG, 'path');
    line.setAttribute('class', 'line');
    svg.append(area, line);
    const draw = (values, least) => {
      const top = Math.max(least, ...values);
      const points = values.map((v, i) => `${HISTORY - values.length + i} ${(19.5 - 19 * v / top).toFixed(2)}`);
      if (points.length === 1) points.unshift(`${HISTORY - 2} ${points[0].split(' ')[1]}`);
      line.setAttribute('d', points.length ? 'M' + points.join('L') : '');
      area.setAttribute('d', points.length ? `M${points[0].split(' ')[0]} 20L${points.join('L')}L${HISTORY - 1} 20Z` : '');
    };
    return {svg, draw};
  }

  // ---- numbers

  const whole = new Intl.NumberFormat(undefined, {maximumFractionDigits: 0});
  const tenth = new Intl.NumberFormat(undefined, {maximumFractionDigits: 1});
  const count = (n) => whole.format(n);
  const rate = (n) => (n < 100 ? tenth : whole).format(n);
  const bytes = (n) => {
    for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
      if (n < 1024) return `${(unit === 'B' ? whole : tenth).format(n)} ${unit}`;
      n /= 1024;
    }
    return `${tenth.format(n)} TiB`;
  };
  const span = (s) => {
    if (s < 1) return `${whole.format(Math.round(s * 1000))} ms`;
    if (s < 60) return `${tenth.format(s)} s`;
    const two = (large, unit, small, lesser) => `${large} ${unit}` + (small ? ` ${small} ${lesser}` : '');
    if (s < 3600) return two(Math.floor(s / 60), 'min', Math.floor(s % 60), 's');
    if (s < 86400) return two(Math.floor(s / 3600), 'h', Math.floor(s % 3600 / 60), 'min');
    return two(Math.floor(s / 86400), 'd', Math.floor(s % 86400 / 3600), 'h');
  };
  const lag = (l) => (l.blocks ? span(l.seconds) : '0');
  const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;
  // since is the time from one moment to another of the gateway's clock.
  const since = (from, at) => {
    const seconds = Math.floor((Date.parse(at) - Date.parse(from)) / 1000);
    return seconds > 0 ? span(seconds) : '0 s';
  };

  // ---- what the reader is told

  let saying;
  function say(text) {
    byId('said').textContent = text;
    clearTimeout(saying);
    saying = setTimeout(() => { byId('said').textContent = ''; }, 6000);
  }

  const link = (state, text) => setState(byId('link'), text, state);

  // ---- event streams

  // follow reads an event stream of the admin API, and comes back when it is refused, which EventSource does not.
  function follow(address, handlers, onState) {
    let source, timer, closed = false;
    const open = () => {
      source = new EventSource(address());
      source.onopen = () => onState('live', 'live');
      source.onerror = () => {
        if (closed) return;
        onState('lost', 'connection lost: trying again');
        if (source.readyState === EventSource.CLOSED) {
          timer = setTimeout(open, 3000);
          if (handlers.refused) handlers.refused();
        }
      };
      for (const [type, handle] of Object.entries(handlers)) {
        if (type !== 'refused') source.addEventListener(type, (e) => { if (!closed) handle(JSON.parse(e.data)); });
      }
    };
    onState('connecting', 'connecting');
    open();
    return {close() { closed = true; clearTimeout(timer); source.close(); }};
  }

  // ---- tiles

  // tiles makes one for each name: a value, a note, and a graph if there are values to draw.
  function tiles(parent, names) {
    const all = {};
    for (const [key, name, least] of names) {
      const li = make('li');
      const value = make('span', 'value', '–'), note = make('span', 'note');
      li.append(make('span', 'name', name), value, note);
      const g = least ? graph() : null;
      if (g) li.append(g.svg);
      const values = [];
      all[key] = {
        set(text, more, state) {
          setState(value, text, state || '');
          setText(note, more || '');
        },
        push(n) {
          values.push(n);
          if (values.length > HISTORY) values.shift();
          g.draw(values, least);
        },
        // begin draws what was there before the page.
        begin(before) {
          values.splice(0, values.length, ...before);
          g.draw(values, least);
        },
      };
      parent.append(li);
    }
    return all;
  }

  // past makes values for a graph of the points of the last minute, which are five seconds apart.
  const past = (points, of) => points.flatMap((p) => Array(5).fill(of(p))).slice(-HISTORY + 1);

  // ---- the state of an upstream

  // lost: a connection that was there is not, and the gateway tries again.
  function stateOf(s) {
    if (s.upstream.state === 'open') return ['open', 'open'];
    if (s.upstream.state === 'ended') return ['ended', 'ended'];
    if (s.upstream.last_error || s.upstream.state === 'waiting') return ['lost', 'lost'];
    return ['opening', 'opening'];
  }

  const title = (s) => s.path || '(no path)';
  const place = (s) => [s.host, '#' + s.id.split('-')[1], s.handler && `sse ${s.handler}`, s.kind !== 'shared' && s.kind].filter(Boolean).join(' · ');

  // ---- nodes

  // nodeOf tells where a stream's upstream connection is, and what else there is to say of nodes; nothing of a stream that
  // nodes do not share.
  function nodeOf(n) {
    if (!n) return ['', ''];
    if (n.role === 'owns') return ['this node', n.followers.length ? `followed by ${count(n.followers.length)}` : ''];
    if (n.role === 'follows') return [n.owner, 'followed here'];
    return n.role === 'alone' ? ['this node', 'not shared yet'] : ['', 'asking'];
  }

  function nodesFact(n) {
    const others = n.followers.length ? `, followed by ${n.followers.join(', ')}` : '';
    if (n.role === 'owns') return `this node has the connection${others} (term ${count(n.term)})`;
    if (n.role === 'follows') return `${n.owner} has the connection${others} (term ${count(n.term)})`;
    return n.role === 'alone' ? 'this node has a connection, and gives other nodes nothing yet' : 'asking whether another node has it';
  }

  function showCluster(c) {
    byId('cluster').hidden = !c;
    document.querySelector('.streams').toggleAttribute('data-cluster', Boolean(c));
    if (c) setText(byId('cluster'), `This node is ${c.node}. ` + (c.others.length ? `Reached: ${c.others.join(', ')}.` : 'It reaches no other node.'));
  }

  // ---- all streams

  const rows = new Map(); // by what they are of
  const totals = tiles(byId('tiles'), [
    ['per', 'Clients per connection', 2], ['subscribers', 'Subscribers', 5], ['received', 'Events in /s', 5],
    ['sent', 'Events out /s', 5], ['lag', 'Largest lag', 0.1], ['lost', 'Upstreams lost', 2],
  ]);
  const sharing = (clients, connections) => clients / Math.max(1, connections);

  // ofStream and ofGroup make rows of the same kind of what the feed tells.
  const ofStream = (s, at) => ({
    key: s.id, title: title(s), href: '#' + encodeURIComponent(s.id), state: stateOf(s), age: since(s.upstream.since, at),
    mark: s.draining ? 'draining' : '', per: sharing(s.subscribers, s.connections), alone: s.kind === 'private',
    where: place(s) + (s.separated_by.length ? ` · by ${s.separated_by.join(', ')}` : ''), subscribers: s.subscribers, received: s.received_rate,
    lag: s.lag, history: s.history, node: nodeOf(s.nodes),
  });
  const ofGroup = (g) => ({
    key: JSON.stringify([g.listen, g.handler, g.path]), title: title(g),
    href: g.stream ? '#' + encodeURIComponent(g.stream) : '#in/' + encodeURIComponent(JSON.stringify([g.listen, g.handler, g.path])),
    state: g.lost ? ['lost', g.streams > 1 ? `${count(g.lost)} of ${count(g.streams)} lost` : 'lost'] : stateOf({upstream: g}),
    age: plural(g.connections, 'connection', 'connections'), mark: '', per: g.clients_per_connection, alone: g.streams > 1 && g.clients_per_connection <= 1,
    where: [g.hosts > 1 ? plural(g.hosts, 'host', 'hosts') : g.host, g.handler && `sse ${g.handler}`, g.streams > 1 && `${count(g.streams)} streams`,
      g.private && (g.private === g.streams ? 'private' : `${count(g.private)} private`)].filter(Boolean).join(' · '),
    subscribers: g.subscribers, received: g.received_rate, lag: g.lag, history: g.history,
    node: [[g.owned && `${count(g.owned)} here`, g.followed && `${count(g.followed)} elsewhere`].filter(Boolean).join(', '), ''],
  });

  function newRow(r) {
    const tr = make('tr');
    tr.setAttribute('role', 'row');
    const cell = (label) => {
      const td = make('td');
      td.setAttribute('role', 'cell');
      if (label) td.dataset.label = label;
      tr.append(td);
      return td;
    };
    const first = cell();
    const a = make('a', 'path', r.title);
    const where = make('div', 'small');
    first.append(a, where);
    const per = make('div', 'per');
    cell('Clients per connection').append(per);
    const upstream = cell('Upstream');
    const state = make('span', 'state'), mark = make('span', 'mark'), age = make('span');
    const more = make('div', 'small');
    more.append(age, ' ', mark);
    upstream.append(state, more);
    const number = (label, least, values) => {
      const box = make('div', 'num'), value = make('span'), g = graph();
      box.append(value, g.svg);
      cell(label).append(box);
      return (n, text) => {
        setText(value, text);
        values.push(n);
        if (values.length > HISTORY) values.shift();
        g.draw(values, least);
      };
    };
    const subscribers = number('Subscribers', 5, past(r.history, (p) => p.subscribers));
    const received = number('Events in /s', 5, past(r.history, (p) => p.received_rate)), behind = number('Lag', 0.1, []);
    const node = make('span'), nodeMore = make('div', 'small'), nodeCell = cell('Node');
    nodeCell.className = 'node';
    nodeCell.append(node, nodeMore);
    let before = '';
    const update = (r) => {
      const [kind, text] = r.state;
      setState(state, text, kind);
      setText(age, r.age);
      setText(mark, r.mark);
      setText(where, r.where);
      if (a.getAttribute('href') !== r.href) a.setAttribute('href', r.href);
      setText(per, tenth.format(r.per));
      per.toggleAttribute('data-alone', r.alone);
      subscribers(r.subscribers, count(r.subscribers));
      received(r.received, rate(r.received));
      behind(r.lag.seconds, lag(r.lag));
      setText(node, r.node[0]);
      setText(nodeMore, r.node[1]);
      const changed = before && before !== kind ? `${r.title}: upstream ${text}` : '';
      before = kind;
      return changed;
    };
    return {tr, update};
  }

  function showTotals(t) {
    if (t.history.length) {
      totals.subscribers.begin(past(t.history, (p) => p.subscribers));
      totals.received.begin(past(t.history, (p) => p.received_rate));
      totals.sent.begin(past(t.history, (p) => p.sent_rate));
    }
    const per = sharing(t.subscribers, t.connections);
    totals.per.set(tenth.format(per), plural(t.connections, 'connection', 'connections'));
    totals.per.push(per);
    totals.subscribers.set(count(t.subscribers), plural(t.streams, 'stream', 'streams') + (t.private ? `, ${count(t.private)} private` : ''));
    totals.subscribers.push(t.subscribers);
    totals.received.set(rate(t.received_rate));
    totals.received.push(t.received_rate);
    totals.sent.set(rate(t.sent_rate));
    totals.sent.push(t.sent_rate);
    totals.lag.set(lag(t.lag));
    totals.lag.push(t.lag.seconds);
    totals.lost.set(count(t.lost));
    totals.lost.push(t.lost);
  }

  function showStreams(e) {
    showTotals(e.totals);
    showHints(e.hints, e.at);
    showCluster(e.cluster);
    const body = byId('rows'), there = new Set(), news = [];
    const all = [...e.groups.map(ofGroup), ...e.streams.map((s) => ofStream(s, e.at))];
    for (const r of all) {
      there.add(r.key);
      let row = rows.get(r.key);
      if (!row) {
        row = newRow(r);
        rows.set(r.key, row);
        body.append(row.tr);
      }
      const changed = row.update(r);
      if (changed) news.push(changed);
    }
    for (const [key, row] of rows) {
      if (!there.has(key)) {
        row.tr.remove();
        rows.delete(key);
      }
    }
    // Rows do not move away under a pointer or the focus.
    if (!body.matches(':hover') && !body.contains(document.activeElement)) {
      let at = body.firstElementChild;
      for (const r of all) {
        const tr = rows.get(r.key).tr;
        if (tr === at) at = at.nextElementSibling;
        else body.insertBefore(tr, at);
      }
    }
    byId('empty').hidden = e.totals.streams > 0;
    document.querySelector('.streams').hidden = all.length === 0;
    byId('none').hidden = e.totals.streams === 0 || all.length > 0;
    if (!e.totals.streams) showHandlers(e.handlers);
    const what = grouped() ? ['path', 'paths'] : ['stream', 'streams'];
    setText(byId('shown'), all.length < e.matching ? `${count(all.length)} of ${plural(e.matching, ...what)}` : plural(e.matching, ...what));
    if (news.length) say(news.slice(0, 3).join(', ') + (news.length > 3 ? `, and ${news.length - 3} more` : ''));
  }

  // showHandlers lists the handlers, and what they have seen: why there is no stream.
  function showHandlers(handlers) {
    byId('no-handlers').hidden = handlers.length > 0;
    byId('handlers').replaceChildren(...handlers.map((h) => {
      const li = make('li');
      li.append(make('code', '', h.handler ? `sse ${h.handler}` : 'sse'), ` on ${h.listen || 'no address'}: `,
        !h.requests ? 'no request has come to it' :
          `${plural(h.requests, 'request', 'requests')}, ${h.event_streams ? count(h.event_streams) : 'none'} answered with an event stream`);
      return li;
    }));
  }

  // ---- hints

  const FIRST_HINTS = 3;
  let allHints = false, hintsShown = '';

  // showHints shows what the gateway has noticed of its configuration.
  function showHints(hints, at) {
    byId('hints').hidden = hints.length === 0;
    const some = allHints ? hints : hints.slice(0, FIRST_HINTS);
    byId('more-hints').hidden = hints.length <= FIRST_HINTS;
    setText(byId('more-hints'), allHints ? 'Show fewer' : `Show all ${count(hints.length)}`);
    const now = JSON.stringify(some.map((h) => [h.kind, h.place, h.text, h.remedy, h.count]));
    if (now === hintsShown) return;
    hintsShown = now;
    byId('hint-list').replaceChildren(...some.map((h) => {
      const li = make('li');
      const remedy = make('span', 'remedy', h.remedy);
      li.append(make('span', 'where', [h.handler && `sse ${h.handler}`, h.place].filter(Boolean).join(' ')), h.text, remedy);
      if (h.count > 1) li.append(make('span', 'small', `${count(h.count)} times, first ${since(h.first_at, at)} ago`));
      return li;
    }));
  }
  byId('more-hints').addEventListener('click', () => {
    allHints = !allHints;
    hintsShown = '';
    connect();
  });

  // ---- one stream

  const own = tiles(byId('detail-tiles'), [
    ['upstream', 'Upstream', 0], ['subscribers', 'Subscribers', 5], ['received', 'Events in /s', 5],
    ['sent', 'Events out /s', 5], ['lag', 'Largest lag', 0.1],
  ]);
  let known = ''; // the upstream's state
  let alone = false; // the stream is private
  let shared = ''; // what names streams of the same key; none of a private stream
  let looking; // for the stream that follows it

  // followed looks for the stream that clients of this one get now, until there is one.
  function followed() {
    if (looking || !shared || !byId('next').hidden) return;
    const id = current;
    const again = () => { looking = setTimeout(look, 2000); };
    const number = (id) => Number(id.split('-')[1]);
    const look = async () => {
      try {
        const answer = await (await fetch(`streams?key=${encodeURIComponent(shared)}&sort=began&order=desc&limit=5`)).json();
        if (id !== current) return;
        const next = answer.streams.find((s) => number(s.id) > number(id) && !s.draining);
        if (!next) return again();
        setText(byId('next-link'), '#' + next.id.split('-')[1]);
        byId('next-link').href = '#' + encodeURIComponent(next.id);
        byId('next').hidden = false;
      } catch {
        if (id === current) again(); // it cannot be reached just now
      }
    };
    looking = setTimeout(look, 0);
  }

  function fact(name, ...values) {
    const div = make('div'), dd = make('dd');
    for (const value of values) dd.append(value);
    div.append(make('dt', '', name), dd);
    return div;
  }

  function showStream(e) {
    const s = e.stream;
    const [kind, text] = stateOf(s);
    alone = s.kind === 'private';
    setText(byId('detail-title'), title(s));
    setText(byId('detail-where'), place(s));
    if (s.history.length) {
      own.subscribers.begin(past(s.history, (p) => p.subscribers));
      own.received.begin(past(s.history, (p) => p.received_rate));
      own.sent.begin(past(s.history, (p) => p.sent_rate));
    }
    shared = alone ? '' : s.stream;
    if (s.draining) followed();
    own.upstream.set(text, `for ${since(s.upstream.since, e.at)}${s.draining ? ', draining' : ''}`, kind);
    own.subscribers.set(count(s.subscribers), s.splices ? plural(s.splices, 'splice', 'splices') : '');
    own.subscribers.push(s.subscribers);
    own.received.set(rate(s.received_rate), `${count(s.events_received)} in all`);
    own.received.push(s.received_rate);
    own.sent.set(rate(s.sent_rate), `${count(s.events_sent)} in all`);
    own.sent.push(s.sent_rate);
    own.lag.set(lag(s.lag), s.lag.blocks ? plural(s.lag.blocks, 'block', 'blocks') : '');
    own.lag.push(s.lag.seconds);
    if (known && known !== kind) say(`upstream ${text}`);
    known = kind;

    const error = s.upstream.last_error;
    const b = s.buffer;
    byId('facts').replaceChildren(
      fact('Began', `${since(s.began_at, e.at)} ago`),
      fact('Connections', `${plural(s.upstream.connections, 'connection', 'connections')}, ${plural(s.upstream.reconnects, 'reconnect', 'reconnects')}` +
        (s.upstream.attempts ? `, attempt ${s.upstream.attempts}` : '')),
      ...(s.nodes ? [fact('Nodes', nodesFact(s.nodes))] : []),
      fact('Last error', error ? `${error.text} (${since(error.at, e.at)} ago)` : 'none'),
      ...(alone ? [] : [fact('Replay buffer', `${plural(b.blocks, 'block', 'blocks')}, ${bytes(b.bytes)}` + (b.oldest ? `, ${since(b.oldest, e.at)}` : '') +
        ` (of ${count(b.max_blocks)}, ${bytes(b.max_bytes)}, ${span(b.max_age_seconds)})`),
      fact('Last event IDs', ...(s.last_ids.upstream ? ['upstream ', make('code', '', s.last_ids.upstream), ' '] : []),
        ...(s.last_ids.gateway ? ['gateway ', make('code', '', s.last_ids.gateway)] : []),
        s.last_ids.upstream || s.last_ids.gateway ? '' : 'none')]),
      ...(s.first_event_seconds === 0 ? [] : [fact('First event', `${span(s.first_event_seconds)} after the request`)]),
      fact('Traffic', `${bytes(s.bytes_received)} in, ${bytes(s.bytes_sent)} out`),
      ...(s.private ? [fact('Private because', `${s.private.text}${s.private.detail ? ` (${s.private.detail})` : ''}. ${s.private.remedy}`)] : []),
      fact('Separated by', alone ? 'everything: it is one client’s' : s.separated_by.length ? s.separated_by.join(', ') : 'nothing but the path'),
      fact('In the log', make('code', '', s.stream), ...(s.epoch ? [', epoch ', make('code', '', s.epoch)] : [])),
    );

    setText(byId('subscribers-shown'), e.subscriber_list.length < s.subscribers ?
      `${count(e.subscriber_list.length)} of ${count(s.subscribers)}, those with the largest lag first` : '');
    byId('subscribers').replaceChildren(...e.subscriber_list.map((c) => {
      const tr = make('tr');
      tr.setAttribute('role', 'row');
      const cell = (label, value) => {
        const td = make('td', '', value);
        td.setAttribute('role', 'cell');
        td.dataset.label = label;
        tr.append(td);
      };
      cell('Address', (c.address || 'unix socket') + (c.client_ip && !c.address.includes(c.client_ip) ? ` for ${c.client_ip}` : ''));
      cell('Protocol', `HTTP/${c.protocol}`);
      cell('Here for', since(c.joined_at, e.at) + (c.spliced ? ', spliced' : ''));
      cell('Lag', c.lag.blocks ? `${plural(c.lag.blocks, 'block', 'blocks')}, ${span(c.lag.seconds)}` : '0');
      cell('Sent', `${plural(c.events_sent, 'event', 'events')}, ${bytes(c.bytes_sent)}`);
      return tr;
    }));
  }

  function over() {
    byId('over').hidden = false;
    followed();
    byId('drain').disabled = byId('end').disabled = true;
    own.upstream.set('over', '', 'ended');
    for (const tile of [own.subscribers, own.received, own.sent, own.lag]) tile.set('–');
    byId('subscribers').replaceChildren();
    setText(byId('subscribers-shown'), '');
  }

  // ---- the tail

  let queue = [], paused = false, painting = false;

  function tailItem(kind, when, text) {
    const li = make('li', kind);
    li.append(make('span', 'when', when), make('pre', '', text));
    return li;
  }

  const clock = (at) => new Date(at).toLocaleTimeString(undefined, {hour: '2-digit', minute: '2-digit', second: '2-digit', fractionalSecondDigits: 3});

  const tailHandlers = {
    block: (b) => queueItem(b.kind, clock(b.at), b.text.replace(/\n$/, '') + (b.clipped ? `\n… ${bytes(b.bytes)} in all` : '')),
    missed: (m) => queueItem('missed', '', `${plural(m.to - m.from + 1, 'block', 'blocks')} not shown`),
    gone: () => queueItem('missed', '', 'the stream is over'),
  };

  function queueItem(...item) {
    queue.push(item);
    if (queue.length > TAIL) queue = queue.slice(-TAIL);
    if (!painting && !paused) {
      painting = true;
      requestAnimationFrame(paint);
    }
  }

  // paint shows what has come since the last time, and keeps what the reader looks at in place.
  function paint() {
    painting = false;
    const list = byId('tail'), top = list.scrollTop, height = list.scrollHeight;
    list.prepend(...queue.reverse().map((item) => tailItem(...item)));
    queue = [];
    while (list.children.length > TAIL) list.lastElementChild.remove();
    if (top > 0) list.scrollTop = top + list.scrollHeight - height;
  }

  byId('pause').addEventListener('click', () => {
    paused = !paused;
    setText(byId('pause'), paused ? 'Resume' : 'Pause');
    byId('pause').classList.toggle('on', paused);
    if (!paused) paint();
  });

  // ---- drain and end

  async function change(method, path, done, body) {
    try {
      const answer = await fetch(path, {method, headers: {'Content-Type': 'application/json'}, body: body && JSON.stringify(body)});
      const told = await answer.json();
      say(answer.ok ? done(told) : `refused: ${told.error}`);
    } catch (error) {
      say(`failed: ${error.message}`);
    }
  }

  let asked;
  function ask(heading, text, yes, act) {
    byId('ask-over').hidden = yes !== 'Drain';
    byId('window').value = '';
    setText(byId('ask-title'), heading);
    setText(byId('ask-text'), text);
    setText(byId('ask-yes'), yes);
    asked = act;
    byId('ask').returnValue = 'no';
    byId('ask').showModal();
  }
  byId('ask').addEventListener('close', () => { if (byId('ask').returnValue === 'yes') asked(); });

  byId('drain').addEventListener('click', () => {
    const id = current;
    ask(`Drain ${byId('detail-title').textContent}?`,
      alone ? 'Cuts its client’s response after a while, if it has not ended by then, and closes its upstream connection.' :
        'Disconnects its clients one by one. Browsers reconnect automatically, to a new stream.',
      'Drain', () => change('POST', `streams/${encodeURIComponent(id)}/drain`,
        (a) => `draining ${plural(a.subscribers, 'subscriber', 'subscribers')} over ${span(a.window_seconds)}`,
        byId('window').value === '' ? undefined : {window: `${byId('window').value}s`}));
  });
  byId('end').addEventListener('click', () => {
    const id = current;
    ask(`End ${byId('detail-title').textContent}?`,
      alone ? 'Cuts its client’s response at once, and closes its upstream connection.' :
        'Disconnects its clients at once, and closes its upstream connection. Browsers reconnect automatically, to a new stream.',
      'End', () => change('DELETE', `streams/${encodeURIComponent(id)}`,
        (a) => `ended for ${plural(a.subscribers, 'subscriber', 'subscribers')}`));
  });

  // ---- which of the two is shown, and reading only while it is seen

  let current = null, within = null, open = [];

  const grouped = () => !within && byId('by').value === 'path';

  // meant is the query of the streams that are asked for.
  function meant() {
    const [sort, order] = byId('sort').value.split(' ');
    const q = new URLSearchParams({sort, order, limit: byId('limit').value, by: grouped() ? 'path' : 'stream'});
    for (const name of ['search', 'kind', 'state']) {
      if (byId(name).value) q.set(name, byId(name).value);
    }
    if (within) ['listen', 'handler', 'path'].forEach((name, i) => q.set(name, within[i]));
    return q;
  }

  function close() {
    for (const source of open) source.close();
    open = [];
  }

  function connect() {
    close();
    if (document.hidden) return;
    if (!current) {
      setText(byId('what'), grouped() ? 'Path' : 'Stream');
      open.push(follow(() => `feed?${meant()}`, {streams: showStreams}, link));
      return;
    }
    const id = encodeURIComponent(current);
    const gone = () => { close(); over(); link('live', 'live'); };
    open.push(follow(() => `feed?stream=${id}`, {
      stream: showStream,
      gone,
      async refused() {
        try {
          if ((await fetch(`streams/${id}?limit=1`)).status === 404) gone();
        } catch { /* it cannot be reached: follow tries again */ }
      },
    }, link));
    open.push(follow(() => `streams/${id}/tail?last=${byId('tail').children.length ? 0 : 20}`, tailHandlers, () => {}));
  }

  // groupOf reads which path of which handler is asked for.
  function groupOf(hash) {
    if (!hash?.startsWith('in/')) return null;
    try {
      const group = JSON.parse(decodeURIComponent(hash.slice(3)));
      return Array.isArray(group) && group.length === 3 && group.every((part) => typeof part === 'string') ? group : null;
    } catch {
      return null;
    }
  }

  function route(event) {
    current = location.hash.slice(1) || null;
    within = groupOf(current);
    byId('within').hidden = !within;
    if (within) setText(byId('within-what'), [within[1] && `sse ${within[1]}`, within[2]].filter(Boolean).join(' '));
    byId('by').disabled = Boolean(within);
    if (current && !/^[0-9a-z]+-[0-9]+$/.test(current)) current = null; // no ID of a stream
    byId('overview').hidden = Boolean(current);
    byId('detail').hidden = !current;
    byId('over').hidden = byId('next').hidden = true;
    clearTimeout(looking);
    looking = undefined;
    shared = '';
    byId('drain').disabled = byId('end').disabled = false;
    known = '';
    for (const tile of [own.subscribers, own.received, own.sent, own.lag]) tile.begin([]);
    queue = [];
    byId('tail').replaceChildren();
    byId('facts').replaceChildren();
    byId('subscribers').replaceChildren();
    setText(byId('detail-title'), current || '');
    document.title = current ? 'Stream' : 'Event streams';
    if (event) {
      byId(current ? 'detail-title' : 'overview-title').focus();
      scrollTo(0, 0);
    }
    connect();
  }

  byId('skip').addEventListener('click', (e) => {
    e.preventDefault(); // what is after the # names a stream
    byId('main').focus();
  });
  addEventListener('hashchange', route);
  addEventListener('pagehide', close);
  addEventListener('pageshow', (e) => { if (e.persisted) connect(); });
  document.addEventListener('visibilitychange', connect);
  byId('sort').addEventListener('change', connect);
  for (const name of ['limit', 'by', 'kind', 'state']) byId(name).addEventListener('change', connect);
  let typing;
  byId('search').addEventListener('input', () => {
    clearTimeout(typing);
    typing = setTimeout(connect, 300);
  });
  route();
})();
