// Worker threads, garbage, files, child processes, JIT and an HTTP server.
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const { execFileSync, spawn, fork } = require('child_process');
const { once } = require('events');
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const os = require('os');
const path = require('path');
const zlib = require('zlib');

function sum(limit) {
  let total = 0;
  for (let i = 0; i < limit; i++) total = (total + i * i) % 1000003;
  return total;
}

async function main() {
  const workers = [1, 2, 3, 4].map(n => new Worker(__filename, { workerData: n * 100000 }));
  const sums = await Promise.all(workers.map(async worker => (await once(worker, 'message'))[0]));
  console.log('workers', sums.join());

  console.log('compiled', sum(3e6));
  let garbage = [];
  for (let i = 0; i < 300000; i++) {
    garbage.push({ i, text: 'x' + i });
    if (garbage.length > 10000) garbage = [];
  }
  console.log('garbage', garbage.length);

  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'runtime-'));
  const file = path.join(folder, 'file');
  await fs.promises.writeFile(file, zlib.gzipSync(Buffer.alloc(1 << 20)));
  const hash = crypto.createHash('sha256').update(zlib.gunzipSync(await fs.promises.readFile(file))).digest('hex');
  console.log('file', hash);
  fs.rmSync(folder, { recursive: true });

  console.log('execFileSync', execFileSync('sh', ['-c', 'echo out; exit 0']).toString().trim());
  const child = spawn('cat', []);
  child.stdin.end('through cat');
  const [output] = await once(child.stdout, 'data');
  const [status] = await once(child, 'close');
  console.log('spawn', output.toString(), status);
  const sleeping = spawn('sleep', ['100']);
  sleeping.kill('SIGTERM');
  console.log('killed', (await once(sleeping, 'exit'))[1]);
  const forked = fork(__filename, ['forked']);
  forked.send({ limit: 1000 });
  console.log('fork', (await once(forked, 'message'))[0]);
  await once(forked, 'exit');

  const server = http.createServer((request, response) => {
    let length = 0;
    request.on('data', data => { length += data.length; });
    request.on('end', () => response.end(JSON.stringify({ url: request.url, length })));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${server.address().port}/some/path`;
  const client = `fetch('${url}', { method: 'POST', body: 'x'.repeat(100000) }).then(r => r.text()).then(console.log)`;
  const requester = spawn(process.execPath, ['-e', client], { stdio: ['ignore', 'pipe', 'inherit'] });
  console.log('http from a process', (await once(requester.stdout, 'data'))[0].toString().trim());
  const answers = await Promise.all([1, 1000].map(async n => (await fetch(url, { method: 'POST', body: 'y'.repeat(n) })).text()));
  console.log('http', answers.join());
  server.close();
  server.closeAllConnections();
}

if (process.argv[2] === 'forked') {
  process.on('message', message => {
    process.send({ sum: sum(message.limit) });
    process.disconnect();
  });
} else if (isMainThread) {
  main();
} else {
  parentPort.postMessage(sum(workerData));
}
