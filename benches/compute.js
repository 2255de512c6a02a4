// Prints how long some work takes, a line each: name, seconds. The argument scales it.
'use strict';
const crypto = require('crypto');
const scale = Number(process.argv.at(-1));

const works = {
  loop() {
    let total = 0;
    for (let i = 0; i < 3_000_000 * scale; i++) total = (total + i * i) % 1_000_003;
    return total;
  },
  digest() {
    const block = Buffer.alloc(1_000_000);
    const hash = crypto.createHash('sha256');
    for (let i = 0; i < 10 * scale; i++) hash.update(block);
    return hash.digest('hex');
  },
  allocation() {
    const keep = [];
    for (let i = 0; i < 60_000 * scale; i++) keep.push({ index: i, text: 'item ' + i, list: [i, i + 1] });
    return keep.length;
  },
  documents() {
    const record = { name: 'x'.repeat(50), values: [...Array(200).keys()], nested: { a: [1.5, null, true] } };
    for (let i = 0; i < 600 * scale; i++) JSON.parse(JSON.stringify(record));
  },
  sorting() {
    const values = Array.from({ length: 15_000 * scale }, (_, i) => (i * 7919) % 100_003);
    return values.sort((a, b) => b - a)[0];
  },
};
for (const [name, work] of Object.entries(works)) {
  const started = process.hrtime.bigint();
  work();
  console.log(name, Number(process.hrtime.bigint() - started) / 1e9);
}
