'use strict';

// All texts of the data are hostile: they reach the page as text nodes and attributes only, after `clean`.
(() => {
  const ROWS_PER_PAGE = 200;
  const PRINTED_ROWS = 1000;
  const PRINTED_WIDTH = 920;
  const LINES = 60;
  const COLUMNS = 60;
  const LISTED_CONFLICTS = 100;
  const SEARCH_DELAY_MS = 10;
  const FIRST_ROWS = 40;
  const REST_MS = 20;
  const IDLE_MS = 100;

  const [CONFLICT, HELD, DECLARED, IN_FORCE, LOST, LIKELY] = [1, 2, 4, 8, 16, 32];
  const KINDS = ['pod', 'node', 'host process', 'Service', 'unknown pod', 'kept for'];
  const [, NODE, PROCESS, SERVICE, , KEPT] = KINDS.keys();
  const PROTOCOLS = ['tcp', 'udp', 'sctp'];
  const REACHES = ['all addresses', 'one address', 'loopback', 'not known'];
  const EVERY_NODE = 'every node';
  const ALL_ADDRESSES = 'all';
  const NO_CLAIM = 'no claim';
  const PORTS = /^:?(\d{1,5})(?:-(\d{1,5}))?(?:\/(tcp|udp|sctp))?$/;

  // The legend is the list of the states, worst first, with their words and shapes.
  const STATES = [...document.querySelectorAll('#legend > div')].map((entry) => ({
    entry, name: entry.dataset.state, label: entry.querySelector('b').textContent, shape: entry.querySelector('svg'),
  }));
  const STATE = Object.fromEntries(STATES.map(({ name }, place) => [name, place]));
  const SORTABLE = ['node', 'port', 'protocol', 'address', 'owner', 'workload', 'source', 'state', 'reach', 'since'];
  // The view without any filter: search, filters, the choice in the picture (a line by its first node, a port), order.
  const ALL = { q: '', node: '', protocol: '', conflicts: false, undeclared: false,
    like: '', port: '', sort: '', desc: false };

  // ---- Small helpers

  const byId = (id) => document.getElementById(id);
  const digits = new Intl.NumberFormat('en');
  const number = (value) => digits.format(value);
  const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? '' : 's'}`;
  const portText = (first, last) => (first === last ? String(first) : `${first}-${last}`);
  const compare = (a, b) => (a < b ? -1 : Number(a > b));

  // Shows characters that are invisible, or change the order of others, as their code: names must not lie.
  function clean(text) {
    return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu, (sign) => `\\u{${sign.codePointAt(0).toString(16)}}`);
  }

  // Seconds of the epoch as `2026-11-29 03:12:09`, cut to a length.
  function time(seconds, length) {
    const date = new Date(seconds * 1000);
    return !seconds || Number.isNaN(date.getTime()) ? '' : date.toISOString().slice(0, length).replace('T', ' ');
  }

  function element(tag, properties, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in made) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  const isolated = (text, className = '') => element('bdi', { className }, text);

  const mark = (state) => STATES[state].shape.cloneNode(true);

  // ---- Data

  function isSound(data) {
    const text = (value) => typeof value === 'string';
    const index = (value, list, low = 0) => Number.isInteger(value) && value >= low && value < list.length;
    const count = (value) => Number.isSafeInteger(value) && value >= 0;
    const { nodes, strings, actors, rows, conflicts } = data;
    return [data.cluster, data.time, data.version].every(text) && strings.every(text)
      && nodes.every((node) => node.slice(0, 4).every(text) && node.length === 5 && count(node[4]))
      && actors.every(([kind, space, name, workload, container]) => index(kind, KINDS) && text(name)
        && index(space, strings) && index(workload, strings) && index(container, strings))
      && rows.every(([node, protocol, first, last, address, actor, source, flags, since, behind]) =>
        index(node, nodes, -1) && index(protocol, PROTOCOLS) && count(first) && first <= last && last <= 65535
        && index(address, strings) && index(actor, actors) && index(source, strings)
        && count(flags) && flags < 256 && count(since) && index(behind, actors, -1))
      && conflicts.every(([node, ports, kind, actor, other, sentence]) => index(node, nodes, -1)
        && [ports, kind, sentence].every(text) && index(actor, actors, -1) && index(other, actors, -1));
  }

  // Returns false for data that is missing, cut or not in the form that this script knows.
  function readData() {
    try {
      const data = JSON.parse(byId('data').textContent);
      return isSound(data) && data;
    } catch {
      return false;
    }
  }

  function stateOf(flags, kind, seen, named) {
    if (flags & CONFLICT) return STATE.conflict;
    if (flags & LOST) return STATE.lost;
    if (kind === KEPT) return STATE.kept;
    if (kind === NODE && (named || !(flags & HELD))) return STATE.reserved;
    if (flags & HELD) return named ? STATE.held : STATE.undeclared;
    if (kind === SERVICE) return STATE.service;
    if (flags & LIKELY) return STATE.likely;
    return seen ? STATE.declared : STATE.unseen;
  }

  function describeLook(flags, kind, seen, sourced) {
    const named = sourced || (flags & (DECLARED | IN_FORCE | LOST)) !== 0;
    const state = stateOf(flags, kind, seen, named);
    const more = [];
    if (state <= STATE.lost) more.push(named ? 'declared' : 'undeclared');
    if (flags & HELD && ![STATE.held, STATE.undeclared].includes(state)) more.push('held');
    if (!(flags & HELD) && seen && state <= STATE.lost) more.push('not held');
    if (flags & IN_FORCE) more.push('claim in force');
    if (flags & LOST && state !== STATE.lost) more.push('claim lost');
    if (flags & LIKELY && state !== STATE.likely) more.push('likely');
    return { state, more: more.join(', '), undeclared: (flags & HELD) !== 0 && !named };
  }

  function describeActor([kind, space, name, workload, container], strings) {
    const full = [strings[space], clean(name)].filter(Boolean).join('/');
    const text = `${KINDS[kind]} ${full}`;
    return { kind, name: full, text, workload: strings[workload], container: strings[container] };
  }

  function buildModel({ rows, conflicts, ...data }) {
    const strings = data.strings.map(clean);
    const nodes = data.nodes.map(([name, from, mode, updated, leftOut]) =>
      ({ name: clean(name), seen: from === 'ledger', mode: clean(mode), updated, leftOut }));
    const actors = data.actors.map((actor) => describeActor(actor, strings));
    const looks = [];
    // Rows share few looks: the key of a look has all bits that it depends on.
    const lookOf = Uint16Array.from(rows, ([node, , , , , actor, source, flags]) => {
      const [seen, sourced] = [node >= 0 && nodes[node].seen, source !== 0];
      const key = (flags & 63) | actors[actor].kind << 6 | Number(seen) << 9 | Number(sourced) << 10;
      looks[key] ??= describeLook(flags & 63, actors[actor].kind, seen, sourced);
      return key;
    });
    const names = [EVERY_NODE, ...nodes.map(({ name }) => name)];
    const model = { rows, conflicts, nodes, names, actors, looks, lookOf };
    model.fields = sharedTexts(model, data.actors, strings);
    model.nodeRanks = ranks(names.slice(1));
    model.defaultOrder = defaultOrder(model);
    return model;
  }

  // Rows share their texts: for each column a list of texts, and the place of a row's text in it. An order or a search
  // looks at each text once, not once a row: that is why both are quick for 100,000 rows.
  function sharedTexts({ names, actors, looks, lookOf }, rawActors, strings) {
    const owners = ['', ...actors.map(({ name, kind, container }) => `${name}\n${KINDS[kind]}\n${container}`)];
    const states = looks.map(({ state, more }) => `${STATES[state].label}\n${more}`);
    return {
      node: { texts: names, at: (row) => row[0] + 1 },
      protocol: { texts: PROTOCOLS, at: (row) => row[1] },
      address: { texts: [ALL_ADDRESSES, ...strings.slice(1)], at: (row) => row[4] },
      owner: { texts: owners, at: (row) => row[5] + 1 },
      workload: { texts: strings, at: (row) => rawActors[row[5]][3] },
      source: { texts: [NO_CLAIM, ...strings.slice(1)], at: (row) => row[6] },
      state: { texts: states, at: (row, index) => lookOf[index] },
      reach: { texts: REACHES, at: (row) => row[7] >> 6 },
      other: { texts: owners, at: (row) => row[9] + 1 },
    };
  }

  // ---- Order

  // Places of the texts in their order. Numbers in names count as numbers: node-2 comes before node-10.
  function ranks(texts) {
    const keys = texts.map((text) => text.toLowerCase().replace(/\d+/g, (part) => part.padStart(12, '0')));
    const places = new Float64Array(keys.length);
    let [place, before] = [-1, null];
    for (const item of Uint32Array.from(keys.keys()).sort((a, b) => compare(keys[a], keys[b]))) {
      if (keys[item] !== before) place += 1;
      before = keys[item];
      places[item] = place;
    }
    return places;
  }

  // Conflicts first, then port, protocol and node.
  function defaultOrder({ rows, looks, lookOf, nodeRanks }) {
    const keys = Float64Array.from(rows, ([node, protocol, first], row) => {
      const calm = Number(looks[lookOf[row]].state !== STATE.conflict);
      return ((calm * 65536 + first) * 4 + protocol) * 2 ** 24 + (node < 0 ? 0 : nodeRanks[node] + 1);
    });
    return Uint32Array.from(rows.keys()).sort((a, b) => keys[a] - keys[b] || a - b);
  }

  function sortKeys({ rows, fields, looks, lookOf }, column) {
    if (column === 'port') return Float64Array.from(rows, ([, , first, last]) => first * 65536 + last);
    if (column === 'since') return Float64Array.from(rows, (row) => row[8] || Infinity);
    if (column === 'state') return Float64Array.from(rows, (row, index) => looks[lookOf[index]].state);
    const places = ranks(fields[column].texts);
    return Float64Array.from(rows, (row, index) => places[fields[column].at(row, index)]);
  }

  // The sort is stable: equal rows stay in the default order.
  function sorted(model, column, descending) {
    if (!column) return model.defaultOrder;
    const keys = sortKeys(model, column);
    const sign = descending ? -1 : 1;
    return model.defaultOrder.slice().sort((a, b) => compare(keys[a], keys[b]) * sign);
  }

  // ---- Search

  // Test for a match of `PORTS`, such as `:80`, `80/tcp` or `8000-8100/udp`.
  function portTest([, low, high = low, name]) {
    const [from, to] = [Number(low), Number(high)];
    return ([, protocol, first, last]) => first <= to && last >= from && (!name || PROTOCOLS[protocol] === name);
  }

  // Done when the page is ready, or at the first search: it takes some time.
  function prepareSearch(model) {
    model.lower ??= new Map(Object.values(model.fields).map(({ texts }) =>
      [texts, texts.map((text) => text.toLowerCase())]));
    for (const field of Object.values(model.fields)) field.places ??= Int32Array.from(model.rows, field.at);
  }

  function wordTest(model, word) {
    const ports = PORTS.exec(word);
    if (ports && /[:/]/.test(word)) return portTest(ports);
    prepareSearch(model);
    const hits = new Uint8Array(model.rows.length);
    for (const [texts, lower] of model.lower) {
      const found = Uint8Array.from(lower, (text) => Number(text?.includes(word) ?? 0));
      const fields = found.includes(1) ? Object.values(model.fields).filter((field) => field.texts === texts) : [];
      for (const { places } of fields) {
        for (let row = 0; row < hits.length; row += 1) hits[row] |= found[places[row]];
      }
    }
    const isPort = /^[\d-]+$/.test(word);
    const port = /^\d+$/.test(word) ? Number(word) : NaN;
    // A number alone is not looked for in dates: it would find most rows.
    const isDate = /\d[:-]/.test(word);
    return (row, index) => hits[index] || (row[2] <= port && port <= row[3])
      || (isPort && portText(row[2], row[3]).includes(word)) || (isDate && time(row[8], 16).includes(word));
  }

  // A full name finds only this node, a part of a name all nodes with it.
  function nodeTest({ names }, text) {
    const wanted = text.toLowerCase();
    const lower = names.map((name) => name.toLowerCase());
    const isName = lower.includes(wanted);
    const found = lower.map((name) => (isName ? name === wanted : name.includes(wanted)));
    return ([node]) => found[node + 1];
  }

  // The tests that a row must pass to be shown, the cheap ones first.
  function testsOf(model, line, view) {
    const tests = [];
    const ports = PORTS.exec(view.port);
    const members = new Set(line?.nodes);
    const look = (index) => model.looks[model.lookOf[index]];
    if (view.conflicts) tests.push((row, index) => look(index).state === STATE.conflict);
    if (view.undeclared) tests.push((row, index) => look(index).undeclared);
    if (view.protocol) tests.push(([, protocol]) => PROTOCOLS[protocol] === view.protocol);
    if (line) tests.push(([node]) => members.has(node));
    if (ports) tests.push(portTest(ports));
    if (view.node) tests.push(nodeTest(model, view.node));
    for (const word of view.q.toLowerCase().split(/\s+/).filter(Boolean)) tests.push(wordTest(model, word));
    return tests;
  }

  // ---- Picture

  // Name of an owner that is the same on all alike nodes: its workload, or its name without that of the node.
  function label({ kind, name, text, workload }, node) {
    if (workload) return workload;
    if (kind === PROCESS) return name;
    return node && text.endsWith(`-${node.name}`) ? `${text.slice(0, -node.name.length)}*` : text;
  }

  // Equal cells (port, state and owner) are one object, so that the lines of two nodes compare quickly.
  function cellsOfNodes(model) {
    const cells = new Map();
    const columns = new Map();
    const nodes = model.names.map(() => new Set());
    model.rows.forEach(([node, protocol, first, last, , actor], index) => {
      const owner = label(model.actors[actor], model.nodes[node]);
      const { state } = model.looks[model.lookOf[index]];
      const text = `${portText(first, last)}/${PROTOCOLS[protocol]}`;
      const key = `${text} ${state} ${owner}`;
      if (!cells.has(key)) {
        if (!columns.has(text)) columns.set(text, { text, protocol, first, last, lines: new Map() });
        cells.set(key, { id: cells.size, column: columns.get(text), state, owner });
      }
      nodes[node + 1].add(cells.get(key));
    });
    return { nodes, columns: [...columns.values()] };
  }

  const worst = (cells, limit) => cells.reduce((least, { state }) => Math.min(least, state), limit);
  // Only conflicts and lost claims move a line or a column to the front.
  const alarm = (cells) => worst(cells, STATE.undeclared);

  // One line for all nodes that are alike; the ports of every node (-1) are the first line.
  function alikeLines(model, nodes) {
    const groups = new Map();
    nodes.forEach((set, place) => {
      if (!place && !set.size) return;
      const { seen = true, mode = '' } = model.nodes[place - 1] ?? {};
      const cells = [...set].sort((a, b) => a.id - b.id);
      const key = `${place ? seen : ''} ${mode} ${cells.map(({ id }) => id).join()}`;
      if (!groups.has(key)) groups.set(key, { name: model.names[place], seen, mode, cells, nodes: [], width: 0 });
      groups.get(key).nodes.push(place - 1);
    });
    const lines = [...groups.values()].map((line) => ({ ...line, every: line.nodes[0] < 0, alarm: alarm(line.cells) }));
    return lines.sort((a, b) => b.every - a.every || a.alarm - b.alarm || b.nodes.length - a.nodes.length
      || model.nodeRanks[a.nodes[0]] - model.nodeRanks[b.nodes[0]]);
  }

  // Neighbour columns that are the same in all lines become one.
  function mergedColumns(columns) {
    const content = ({ lines }) => [...lines].map(([{ name }, cells]) =>
      [name, ...cells.map(({ state, owner }) => `${state} ${owner}`).sort()].join('\n')).join('\n');
    const merged = [];
    for (const column of columns.sort((a, b) => a.protocol - b.protocol || a.first - b.first || a.last - b.last)) {
      const before = merged.at(-1);
      const isNext = before?.protocol === column.protocol && before.last + 1 === column.first;
      if (isNext && content(before) === content(column)) {
        before.last = column.last;
        before.text = `${portText(before.first, before.last)}/${PROTOCOLS[before.protocol]}`;
      } else merged.push(column);
    }
    return merged;
  }

  function buildPicture(model) {
    const { nodes, columns } = cellsOfNodes(model);
    const lines = alikeLines(model, nodes);
    for (const line of lines) {
      for (const cell of line.cells) {
        if (!cell.column.lines.has(line)) cell.column.lines.set(line, []);
        cell.column.lines.get(line).push(cell);
      }
    }
    const shown = new Set(lines.slice(0, LINES));
    const all = mergedColumns(columns);
    for (const column of all) {
      const here = [...column.lines.keys()].filter((line) => shown.has(line));
      const cells = here.flatMap((line) => column.lines.get(line));
      for (const line of here) line.width += 1;
      column.weight = here.reduce((sum, line) => sum + line.nodes.length, 0);
      column.alarm = alarm(cells);
      column.owners = [...new Set(cells.map(({ owner }) => owner))];
    }
    const best = all.filter(({ weight }) => weight)
      .sort((a, b) => a.alarm - b.alarm || b.weight - a.weight || a.first - b.first).slice(0, COLUMNS)
      .sort((a, b) => a.first - b.first || a.last - b.last || a.protocol - b.protocol);
    return { lines, shown: [...shown], columns: best, allColumns: all.length };
  }

  // ---- Drawing: head, conflicts and picture

  const lineText = ({ nodes, name }) => (nodes.length === 1 ? name : `${number(nodes.length)} nodes like ${name}`);

  function lineNote({ every, seen, mode }) {
    if (every) return 'Services';
    return seen ? mode : 'no ledger';
  }

  function drawHead(data, { nodes, rows, conflicts }) {
    const stamp = (text) => (Date.parse(text) ? `${time(Date.parse(text) / 1000, 19)} UTC` : clean(text));
    const seen = nodes.filter((node) => node.seen);
    const cut = nodes.filter(({ leftOut }) => leftOut);
    const unseen = nodes.length - seen.length;
    const texts = {
      cluster: clean(data.cluster) || 'an unnamed cluster', version: clean(data.version), time: stamp(data.time),
      nodes: number(nodes.length), seen: number(seen.length), unseen: number(unseen),
      total: number(rows.length), clashes: number(conflicts.length),
      oldest: stamp(seen.map(({ updated }) => updated).sort()[0] ?? '') || 'an unknown time',
      'cut-ports': counted(cut.reduce((sum, { leftOut }) => sum + leftOut, 0), 'port'),
      'cut-nodes': cut.length > 1 ? `${number(cut.length)} nodes, first ${cut[0].name}` : cut[0]?.name,
    };
    for (const [id, text] of Object.entries(texts)) byId(id).textContent = text;
    const notes = { seen: seen.length, unseen, cut: cut.length, empty: !rows.length };
    for (const [name, isNeeded] of Object.entries(notes)) byId(`note-${name}`).hidden = !isNeeded;
    byId('clashes').classList.toggle('bad', conflicts.length > 0);
  }

  // Conflicts that differ only in their node (and the address of it) are one item.
  function alikeConflicts(model) {
    const groups = new Map();
    for (const [node, ports, kind, actor, other, sentence] of model.conflicts) {
      const sides = [actor, other].filter((side) => side >= 0)
        .map((side) => label(model.actors[side], model.nodes[node]));
      const key = [ports.replace(/^.*:(?=\d)/, ''), kind, ...sides].join('\n');
      const parts = [ports, kind, sentence, sides.join(' and ')].map(clean);
      if (!groups.has(key)) groups.set(key, { parts, nodes: [] });
      groups.get(key).nodes.push(model.names[node + 1]);
    }
    return [...groups.values()].sort((a, b) => b.nodes.length - a.nodes.length);
  }

  function drawConflicts(model, show) {
    const groups = alikeConflicts(model);
    const items = groups.slice(0, LISTED_CONFLICTS).map(({ parts: [ports, kind, sentence, sides], nodes }) => {
      const where = nodes.length > 1 ? `${number(nodes.length)} nodes, first ${nodes[0]}` : nodes[0];
      const name = `Show the rows of ${ports}, ${where}`;
      const button = element('button', { type: 'button', 'aria-label': name }, 'Show rows');
      button.addEventListener('click', () => show(nodes.length > 1 ? '' : nodes[0], ports));
      const head = [isolated(ports, 'port'), ' ', isolated(where, 'where'), ' ', isolated(kind, 'tag')];
      const body = [isolated(sentence), ' ', isolated(sides, 'quiet')];
      return element('li', {}, mark(STATE.conflict),
        element('div', {}, element('p', { className: 'conflict-head' }, ...head), element('p', {}, ...body)), button);
    });
    byId('conflicts').hidden = !groups.length;
    byId('conflict-list').append(...items);
    byId('conflicts-more').hidden = groups.length <= LISTED_CONFLICTS;
    const more = number(groups.length - LISTED_CONFLICTS);
    byId('conflicts-more').textContent = `And ${more} more: see “Only conflicts” below.`;
  }

  function drawLegend({ looks, lookOf }) {
    const counts = STATES.map(() => 0);
    for (const key of lookOf) counts[looks[key].state] += 1;
    STATES.forEach(({ entry }, state) => {
      entry.hidden = !counts[state];
      entry.firstElementChild.append(element('span', { className: 'tag' }, counted(counts[state], 'row')));
    });
  }

  const gridCell = (tag, properties, ...children) => element(tag, { tabIndex: -1, ...properties }, ...children);
  const gridHead = (title, ...children) =>
    gridCell('th', { scope: 'col', title }, element('div', {}, ...children));

  function drawCell(line, column) {
    const cells = column.lines.get(line);
    if (!cells) return gridCell('td', {});
    const owners = new Set(cells.map(({ owner, state }) => `${owner} (${STATES[state].label})`));
    const text = `${column.text}, ${lineText(line)}: ${[...owners].join('; ')}`;
    const state = worst(cells, STATES.length);
    return gridCell('td', { className: STATES[state].name, 'aria-label': text }, mark(state));
  }

  function drawLine(columns, line) {
    const title = lineText(line);
    const names = element('div', {}, isolated(title), element('span', { className: 'tag' }, lineNote(line)));
    const hidden = line.width - columns.filter(({ lines }) => lines.has(line)).length;
    const text = hidden ? `${title}: ${counted(hidden, 'column')} more, not in this picture` : 'no more columns';
    const more = gridCell('td', { className: 'more', 'aria-label': text }, hidden ? `+${hidden}` : '');
    return element('tr', {}, gridCell('th', { scope: 'row', title }, names),
      ...columns.map((column) => drawCell(line, column)), more);
  }

  function drawPicture({ lines, shown, columns, allColumns }) {
    const heads = columns.map(({ text, owners }) => {
      const who = owners.length > 1 ? `${owners.length} owners` : owners[0].split('/').at(-1);
      return gridHead(`${text}: ${owners.join('; ')}`, element('b', {}, text), ' ', isolated(who));
    });
    const corner = gridCell('th', { scope: 'col', tabIndex: 0 }, 'Nodes');
    byId('grid-head').append(element('tr', {}, corner, ...heads, gridHead('', 'more columns')));
    byId('grid-body').append(...shown.map((line) => drawLine(columns, line)));
    byId('grid').classList.toggle('whole', columns.length === allColumns);
    const [moreLines, moreColumns] = [lines.length - shown.length, allColumns - columns.length];
    const nodes = lines.slice(LINES).reduce((sum, line) => sum + line.nodes.length, 0);
    const left = [moreLines && `${counted(moreLines, 'line')} (${counted(nodes, 'node')})`,
      moreColumns && counted(moreColumns, 'column')].filter(Boolean);
    byId('grid-more').textContent = `Not in this picture: ${left.join(' and ')}. Conflicts and frequent ports come`
      + ' first. The table has all rows.';
    byId('grid-more').hidden = !left.length;
    byId('picture').hidden = !lines.some(({ cells }) => cells.length);
  }

  // ---- Drawing: table

  function ownerCell({ kind, name, container }) {
    const where = container ? [' ', element('span', { className: 'quiet' }, 'container ', isolated(container))] : [];
    return element('td', {}, element('span', { className: 'quiet' }, KINDS[kind]), ' ', isolated(name), ...where);
  }

  function stateCell({ state, more }, other) {
    const cell = element('td', {}, element('span', { className: 'state' }, mark(state), STATES[state].label));
    if (more) cell.append(element('span', { className: 'quiet line' }, more));
    const intro = state === STATE.lost ? 'has it: ' : 'other side: ';
    if (other) cell.append(element('span', { className: 'quiet line' }, intro, isolated(other.text)));
    return cell;
  }

  function drawRow({ rows, looks, lookOf, fields, actors }, index) {
    const row = rows[index];
    const look = looks[lookOf[index]];
    const text = (value, className = '') => element('td', { className }, value);
    // Quiet: the text for a value that is not there.
    const field = (name, isQuiet = false) => text(fields[name].texts[fields[name].at(row)], isQuiet ? 'quiet' : '');
    return element('tr', { className: STATES[look.state].name },
      field('node', row[0] < 0), text(portText(row[2], row[3]), 'port'), field('protocol'), field('address', !row[4]),
      ownerCell(actors[row[5]]), field('workload'), field('source', !row[6]), stateCell(look, actors[row[9]]),
      field('reach'), text(time(row[8], 16), 'time'));
  }

  const drawRows = (model, rows) => Array.from(rows, (row) => drawRow(model, row));

  // ---- State of the page: what is shown, in which order; kept in the address for links

  function viewOfHash(hash) {
    const parts = new URLSearchParams(hash.slice(1));
    const view = { ...ALL };
    for (const [key, value] of Object.entries(ALL)) {
      view[key] = typeof value === 'boolean' ? parts.has(key) : (parts.get(key) ?? '').slice(0, 300);
    }
    if (!PROTOCOLS.includes(view.protocol)) view.protocol = '';
    if (!SORTABLE.includes(view.sort)) view.sort = '';
    if (!PORTS.test(view.port)) view.port = '';
    return view;
  }

  const hashOfView = (view) => `#${new URLSearchParams(Object.entries(view).filter(([, value]) => value))}`;

  function start(data) {
    const model = buildModel(data);
    const picture = buildPicture(model);
    let view = viewOfHash(location.hash);
    let order = { sort: '', desc: false, rows: model.defaultOrder };
    let shown = model.defaultOrder;
    let [page, timer, rest] = [0, 0, 0];
    let picked = {};

    // The first rows at once, so that a search feels quick, and the others when these are painted.
    function showRows(rows) {
      clearTimeout(rest);
      byId('rows').replaceChildren(...drawRows(model, rows.subarray(0, FIRST_ROWS)));
      rest = setTimeout(() => byId('rows').append(...drawRows(model, rows.subarray(FIRST_ROWS))), REST_MS);
    }

    function showPage() {
      const pages = Math.max(1, Math.ceil(shown.length / ROWS_PER_PAGE));
      const from = page * ROWS_PER_PAGE;
      const to = Math.min(from + ROWS_PER_PAGE, shown.length);
      showRows(shown.subarray(from, to));
      const place = `page ${number(page + 1)} of ${number(pages)}`;
      byId('pages').textContent = `Rows ${number(from + 1)} to ${number(to)}, ${place}`;
      byId('prev').disabled = page === 0;
      byId('next').disabled = page + 1 >= pages;
      byId('pager').hidden = pages === 1;
    }

    function showFilters() {
      for (const [id, key] of [['search', 'q'], ['node', 'node'], ['protocol', 'protocol']]) {
        if (byId(id).value.trim() !== view[key].trim()) byId(id).value = view[key];
      }
      byId('only-conflicts').checked = view.conflicts;
      byId('only-undeclared').checked = view.undeclared;
      byId('clear').disabled = hashOfView({ ...view, sort: '', desc: false }) === '#';
      for (const head of byId('heads').cells) {
        const isSorted = head.firstElementChild.dataset.key === view.sort;
        head.ariaSort = isSorted ? (view.desc ? 'descending' : 'ascending') : null;
      }
    }

    function showPick(line) {
      const names = byId('pick-names');
      if (picked.line === line && picked.port === view.port) return;
      picked = { line, port: view.port };
      const parts = [line && lineText(line), view.port && `port ${view.port}`].filter(Boolean);
      byId('pick').hidden = !parts.length;
      byId('pick-text').replaceChildren('Only ', isolated(parts.join(', ')));
      names.hidden = !line || line.nodes.length < 2;
      if (names.hidden) return;
      names.firstElementChild.textContent = `Names of the ${number(line.nodes.length)} nodes`;
      names.lastElementChild.replaceChildren(
        ...line.nodes.map((node) => element('li', {}, isolated(model.names[node + 1]))));
    }

    function refresh() {
      clearTimeout(timer);
      const { sort, desc } = view;
      if (order.sort !== sort || order.desc !== desc) order = { sort, desc, rows: sorted(model, sort, desc) };
      const line = picture.lines.find(({ name }) => name === view.like);
      const tests = testsOf(model, line, view);
      shown = order.rows.filter((index) => tests.every((test) => test(model.rows[index], index)));
      page = 0;
      showPage();
      showFilters();
      showPick(line);
      byId('count').textContent = `${number(shown.length)} of ${counted(model.rows.length, 'row')}`;
    }

    function change(changes) {
      view = { ...view, ...changes };
      refresh();
      // Some browsers refuse this for local files: the page works without.
      try {
        history.replaceState(null, '', hashOfView(view));
      } catch { /* no link then */ }
    }

    function changeSoon(changes) {
      clearTimeout(timer);
      timer = setTimeout(() => change(changes()), SEARCH_DELAY_MS);
    }

    function turn(step) {
      page += step;
      showPage();
      byId('count').scrollIntoView();
    }

    // Leaves the order as it is.
    function jump(changes) {
      const { sort, desc } = view;
      change({ ...ALL, sort, desc, ...changes });
      byId('list').scrollIntoView();
    }

    function pick(cell) {
      const isHead = cell.closest('thead') !== null;
      const line = isHead ? null : picture.shown[cell.parentElement.sectionRowIndex];
      jump({ like: line?.name ?? '', port: picture.columns[cell.cellIndex - 1]?.text ?? '' });
    }

    drawHead(data, model);
    drawConflicts(model, (node, ports) =>
      jump({ conflicts: true, node, port: /\d+(-\d+)?\/(tcp|udp|sctp)$/.exec(ports)?.[0] ?? '' }));
    drawLegend(model);
    drawPicture(picture);
    listenToGrid(pick);
    listenToFilters(model.names, change, changeSoon);
    byId('heads').addEventListener('click', ({ target: { dataset: { key } } }) => {
      // Third click: back to the default order.
      if (key === view.sort) change(view.desc ? { sort: '', desc: false } : { desc: true });
      else if (key) change({ sort: key, desc: false });
    });
    byId('prev').addEventListener('click', () => turn(-1));
    byId('next').addEventListener('click', () => turn(1));
    addEventListener('hashchange', () => change(viewOfHash(location.hash)));
    listenToPrint(() => {
      clearTimeout(rest);
      byId('rows').replaceChildren(...drawRows(model, shown.subarray(0, PRINTED_ROWS)));
      byId('cut').hidden = shown.length <= PRINTED_ROWS;
      byId('cut').textContent = `Only the first ${number(PRINTED_ROWS)} rows are printed. Filter the table for others.`;
    }, showPage);
    refresh();
    // After the first paint, and after all rows of the page: timers of the same time run in their order.
    requestAnimationFrame(() => setTimeout(() => {
      document.documentElement.dataset.ready = String(Math.round(performance.now()));
      setTimeout(prepareSearch, IDLE_MS, model);
    }, REST_MS));
  }

  // ---- Events

  function listenToFilters(names, change, changeSoon) {
    const [search, node] = [byId('search'), byId('node')];
    search.addEventListener('input', () => changeSoon(() => ({ q: search.value })));
    node.addEventListener('input', () => changeSoon(() => ({ node: node.value.trim() })));
    // Thousands of names: only made when someone wants to choose one.
    node.addEventListener('focus', () => byId('node-names').append(
      ...names.map((value) => element('option', { value }))), { once: true });
    byId('protocol').addEventListener('change', ({ target: { value } }) => change({ protocol: value }));
    byId('only-conflicts').addEventListener('change', ({ target: { checked } }) => change({ conflicts: checked }));
    byId('only-undeclared').addEventListener('change', ({ target: { checked } }) => change({ undeclared: checked }));
    byId('clear').addEventListener('click', () => {
      change({ ...ALL });
      search.focus();
    });
    document.addEventListener('keydown', (event) => {
      const isTyping = event.target.closest('input:not([type=checkbox]), select');
      if (event.key === 'Escape' && event.target === search) change({ q: '' });
      if (event.key !== '/' || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      search.select();
    });
  }

  // Where a key leads from a cell of the picture, as [line, column]; undefined for other keys.
  function moved(key, isFar, [line, column], [lastLine, lastColumn]) {
    const to = new Map([
      ['ArrowUp', [line - 1, column]], ['ArrowDown', [line + 1, column]],
      ['ArrowLeft', [line, column - 1]], ['ArrowRight', [line, column + 1]],
      ['PageUp', [line - 10, column]], ['PageDown', [line + 10, column]],
      ['Home', [isFar ? 0 : line, 0]], ['End', [isFar ? lastLine : line, lastColumn]],
    ]).get(key);
    return to && [Math.min(Math.max(to[0], 0), lastLine), Math.min(Math.max(to[1], 0), lastColumn)];
  }

  // Only one cell of the picture is in the tab order; the arrow keys move from there.
  function listenToGrid(pick) {
    const grid = byId('grid');
    const cellOf = (event) => event.target.closest('td, th');
    let current = grid.rows[0].cells[0];
    const tell = (cell) => {
      if (cell) byId('detail').textContent = cell.getAttribute('aria-label') || cell.title;
    };
    grid.addEventListener('mouseover', (event) => tell(cellOf(event)));
    grid.addEventListener('focusin', (event) => {
      current.tabIndex = -1;
      current = cellOf(event);
      current.tabIndex = 0;
      tell(current);
    });
    grid.addEventListener('click', (event) => {
      if (cellOf(event)) pick(cellOf(event));
    });
    grid.addEventListener('keydown', (event) => {
      const lastColumn = grid.rows[0].cells.length - (grid.classList.contains('whole') ? 2 : 1);
      const to = moved(event.key, event.ctrlKey, [current.parentElement.rowIndex, current.cellIndex],
        [grid.rows.length - 1, lastColumn]);
      if (event.key === 'Enter' || event.key === ' ') pick(current);
      else if (to) grid.rows[to[0]].cells[to[1]].focus();
      else return;
      event.preventDefault();
    });
  }

  function listenToPrint(before, after) {
    const grid = byId('grid');
    addEventListener('beforeprint', () => {
      before();
      // The picture shrinks to the width of the paper (A4 or Letter, landscape), as no one can scroll there.
      const { fontSize } = getComputedStyle(grid);
      grid.style.fontSize = `${parseFloat(fontSize) * Math.min(0.8, PRINTED_WIDTH / grid.offsetWidth)}px`;
    });
    addEventListener('afterprint', () => {
      grid.style.fontSize = '';
      after();
    });
  }

  const data = readData();
  byId(data ? 'page' : 'problem').hidden = false;
  if (data) start(data);
})();
