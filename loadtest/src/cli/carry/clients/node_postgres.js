// Long sessions of node-postgres, with state of their own: node_postgres.js FIRST COUNT. See python.py.
'use strict';
const { Client } = require('pg');

const STATE = `select concat_ws('|', current_setting('work_mem'), current_setting('application_name'),
  current_setting('app.tenant', true), current_user,
  (select string_agg(channel, ',' order by channel) from pg_listening_channels() as listened (channel))) as state`;
const [first, count] = process.argv.slice(2).map(Number);
let requests = 0;
let isStopping = false;
const tell = (number, what) => console.log(`node-postgres ${number}: ${what}`.replace(/\n/g, ' '));
const pause = () => new Promise((resolve) => setTimeout(resolve, 100 + Math.random() * 200));

async function session(number) {
  const client = new Client();
  await client.connect();
  client.on('error', (error) => tell(number, `error: ${error}`));
  await client.query(`set work_mem = '${2048 + number}kB'; set app.tenant = 'tenant ${number}'; listen channel_${number}`);
  if (number % 2) await client.query('set role carried');
  const value = async (query) => Object.values((await client.query(query)).rows[0])[0];
  let expected = Number(await value({ text: 'select n from counters where id = $1', values: [number] }));
  const own = await value(STATE);
  while (!isStopping) {
    const text = 'update counters set n = n + 1 where id = $1 returning n';
    const counted = Number(await value({ name: 'count', text, values: [number] }));
    expected += 1;
    const state = await value({ name: 'state', text: STATE });
    requests += 1;
    if (counted !== expected) tell(number, `wrong: its counter is ${counted}, not ${expected}`);
    if (state !== own) tell(number, `wrong: its state is ${state}, not ${own}`);
    await pause();
  }
  await client.end();
}

process.stdin.on('end', () => { isStopping = true; }).resume();
const numbers = Array.from({ length: count }, (_, place) => first + place);
Promise.all(numbers.map((number) => session(number).catch((error) => tell(number, `error: ${error}`))))
  .then(() => { console.log(`requests ${requests}`); process.exit(0); });
