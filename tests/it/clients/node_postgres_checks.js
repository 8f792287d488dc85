// What an application does with node-postgres, which speaks the protocol itself, without libpq: through one port.
'use strict'

const assert = require('node:assert')
const crypto = require('node:crypto')
const { once } = require('node:events')
const { pipeline: stream } = require('node:stream/promises')
const { Readable } = require('node:stream')
const { Client, Query } = require('pg')
const copyStreams = require('pg-copy-streams')

const port = process.argv[2]
const encrypted = process.env.PGSSLMODE !== 'disable'
const encryptedAtServer = process.env.ENCRYPTED_AT_SERVER === 'yes'
const ROWS = 20_000
const LARGE = 20_000_000
const WAIT_MS_MAX = 20_000
// says that it runs before it sleeps: a cancel that comes before its query does nothing
const SLEEP = "do $$ begin raise notice 'asleep'; perform pg_sleep(60); end $$"

// the servers' certificates are signed by themselves
const settings = (more) => ({ ssl: encrypted && { rejectUnauthorized: false }, ...more })

async function withSession(story, more) {
  const session = new Client(settings(more))
  await session.connect()
  try {
    await story(session)
  } finally {
    await session.end()
  }
}

const value = async (session, text, values) => (await session.query({ text, values, rowMode: 'array' })).rows[0][0]

const goesOn = async (session) => assert.equal(await value(session, "select 'goes on'"), 'goes on')

const CHECKS = {
  connect: () => withSession(async (session) => {
    assert.equal(await value(session, 'select pg_is_in_recovery()'), port === 'read')
    assert.equal(await value(session, 'select ssl from pg_stat_ssl where pid = pg_backend_pid()'), encryptedAtServer)
  }),

  query: () => withSession(async (session) => {
    const { rows } = await session.query('select n from generate_series(1, $1::int) n', [ROWS])
    assert.deepEqual(rows.map((row) => row.n), Array.from({ length: ROWS }, (_, index) => index + 1))
  }),

  prepared: () => withSession(async (session) => {
    for (let number = 0; number < 5; number++) {
      const { rows } = await session.query({ name: 'plus-one', text: 'select $1::int + 1 as sum', values: [number] })
      assert.equal(rows[0].sum, number + 1)
    }
    assert.equal(await value(session, "select count(*)::int from pg_prepared_statements where name = 'plus-one'"), 1)
  }),

  pipeline: () => withSession(async (session) => {
    const numbers = Array.from({ length: 1000 }, (_, index) => index)
    const answers = numbers.map((number) => value(session, 'select $1::int', [number]))
    const failure = assert.rejects(session.query('select 1 / $1::int', [0]), { code: '22012' })
    assert.deepEqual(await Promise.all(answers), numbers)
    await failure
    await goesOn(session)
  }, { pipeline: true }),

  'copy-out': () => withSession(async (session) => {
    const rows = copyStreams.to(`copy (select n, md5(n::text) from generate_series(1, ${ROWS}) n) to stdout`)
    const portions = await session.query(rows).toArray()
    assert.equal(Buffer.concat(portions).toString().trimEnd().split('\n').length, ROWS)
    await goesOn(session)
  }),

  'copy-in': () => withSession(async (session) => {
    await session.query('create temporary table bulk (number int, word text)')
    const lines = Readable.from((function* () {
      for (let number = 0; number < ROWS; number++) yield `${number}\tword ${number}\n`
    })())
    await stream(lines, session.query(copyStreams.from('copy bulk from stdin')))
    assert.equal(await value(session, 'select sum(number)::float8 from bulk'), (ROWS * (ROWS - 1)) / 2)
  }),

  'listen-notify': () => withSession(async (listener) => {
    await listener.query('listen node_news')
    const heard = once(listener, 'notification')
    await withSession((speaker) => speaker.query("notify node_news, 'all is well'"))
    assert.equal((await heard)[0].payload, 'all is well')
  }),

  large: () => withSession(async (session) => {
    const text = crypto.randomBytes(LARGE / 2).toString('hex')
    assert.ok((await value(session, 'select $1::text', [text])) === text, 'what came back is not the same')
  }),

  error: () => withSession(async (session) => {
    await assert.rejects(session.query('select 1 / 0'), { code: '22012' })
    await goesOn(session)
  }),

  cancel: () => withSession(async (session) => {
    const asleep = once(session, 'notice')
    const sleeper = new Query(SLEEP)
    const woken = assert.rejects(new Promise((_, reject) => sleeper.once('error', reject)), { code: '57014' })
    session.query(sleeper)
    await asleep
    // node-postgres sends cancels of plain sessions only, so this one goes in clear for an encrypted session too
    new Client(settings({ ssl: false })).cancel(session, sleeper)
    await woken
    await goesOn(session)
  }),
}

async function main() {
  const only = { 'copy-in': 'write', 'listen-notify': 'write' }
  const checks = Object.entries(CHECKS).filter(([name]) => (only[name] ?? port) === port)
  console.log(`1..${checks.length}`)
  let failed = 0
  for (const [index, [name, check]] of checks.entries()) {
    const late = new Promise((_, reject) => setTimeout(reject, WAIT_MS_MAX, new Error('too late')).unref())
    try {
      await Promise.race([check(), late])
      console.log(`ok ${index + 1} - ${name}`)
    } catch (error) {
      failed += 1
      console.log(`not ok ${index + 1} - ${name}\n# ${String(error.stack).slice(0, 2000).replaceAll('\n', '\n# ')}`)
    }
  }
  process.exit(failed ? 1 : 0)
}

main()
