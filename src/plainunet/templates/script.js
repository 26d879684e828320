'use strict';
(() => {
// the table of all images: filled, sorted, searched
function showTable(data) {
  const table = document.getElementById('pictures');
  const heads = [...table.tHead.rows[0].cells];
  const find = document.getElementById('find');
  const more = document.getElementById('more');
  const step = 100;
  let sorted = 3, rising = true, most = step;

  const collator = new Intl.Collator('en', {numeric: true});
  const names = data.rows.map((row) => `${row[0]} ${row[1]}`.toLowerCase());

  function compare(a, b, kind) {
    if (kind === 'text') return collator.compare(a, b);
    return kind === 'size' ? a[0] * a[1] - b[0] * b[1] : a - b;
  }

  function format(value, kind) {
    if (value === null) return '\u2013';
    if (kind === 'score') return value.toFixed(4);
    if (kind === 'pixels') return value.toFixed(2);
    return kind === 'size' ? `${value[0]} x ${value[1]}` : value;
  }

  function makeRow(row) {
    const line = document.createElement('tr');
    data.columns.forEach((column, place) => {
      const cell = document.createElement(place ? 'td' : 'th');
      let inside = cell;
      if (!place) {
        cell.scope = 'row';
        if (data.anchors[row]) {
          inside = cell.appendChild(document.createElement('a'));
          inside.href = `#${data.anchors[row]}`;
        }
      }
      inside.textContent = format(data.rows[row][place], column.kind);
      if (column.kind === 'text') cell.className = 'name';
      line.append(cell);
    });
    return line;
  }

  function fill() {
    const wanted = find.value.trim().toLowerCase();
    const kind = data.columns[sorted].kind;
    const order = [...names.keys()].filter((row) => names[row].includes(wanted));
    order.sort((one, two) => {
      const a = data.rows[one][sorted], b = data.rows[two][sorted];
      if (a === null || b === null) return (a === null) - (b === null) || one - two;
      return (rising ? 1 : -1) * compare(a, b, kind) || one - two;
    });
    const rows = order.slice(0, most).map(makeRow);
    table.tBodies[0].replaceChildren(...rows);
    more.hidden = order.length <= most;
    document.getElementById('found').textContent = `${rows.length} of ${data.rows.length} images`;
    heads.forEach((head, place) => {
      const how = place === sorted ? (rising ? 'ascending' : 'descending') : 'none';
      head.setAttribute('aria-sort', how);
    });
  }

  heads.forEach((head, place) => head.firstElementChild.addEventListener('click', () => {
    rising = place === sorted ? !rising : true;
    sorted = place;
    fill();
  }));
  find.addEventListener('input', () => { most = step; fill(); });
  more.addEventListener('click', () => { most += 5 * step; fill(); });
  fill();
  document.getElementById('all').hidden = false;
}

const source = document.getElementById('pictures-data');
if (source) showTable(JSON.parse(source.textContent));

// images that enlarge on click
const zooms = [...document.querySelectorAll('button.zoom')];
const dialog = document.getElementById('zoom');
const large = dialog.querySelector('.large').appendChild(document.createElement('img'));
let shown = 0;

function show(number) {
  shown = (number + zooms.length) % zooms.length;
  const small = zooms[shown].querySelector('img');
  large.src = small.src;
  large.alt = small.alt;
  large.className = small.className;
  document.getElementById('zoom-label').textContent = zooms[shown].dataset.label;
}

zooms.forEach((zoom, number) => zoom.addEventListener('click', () => {
  show(number);
  dialog.showModal();
  document.getElementById('next').focus();
}));
dialog.addEventListener('keydown', (event) => {
  const row = zooms[shown].parentElement.querySelectorAll('button.zoom').length;
  const steps = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row};
  if (!(event.key in steps)) return;
  event.preventDefault();
  show(shown + steps[event.key]);
});
dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
document.getElementById('previous').addEventListener('click', () => show(shown - 1));
document.getElementById('next').addEventListener('click', () => show(shown + 1));
document.getElementById('close').addEventListener('click', () => dialog.close());
})();
