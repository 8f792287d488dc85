// Connects with node-postgres, asks, and asks again when a line has come in; prints the error that it meets, as JSON.
'use strict'

const { once } = require('node:events')
const { Client } = require('pg')

function tell({ code, severity, message, detail, hint }) {
  console.log(JSON.stringify({ sqlstate: code, severity, message, detail, hint }))
  process.exit()
}

async function main() {
  const session = new Client({ ssl: process.env.PGSSLMODE === 'require' && { rejectUnauthorized: false } })
  // an idle session hears of its end at once, as an event; an application that does not listen would end itself
  let heard
  session.on('error', (error) => { heard ??= error })
  await session.connect()
  await session.query('select 1')
  console.log('connected')
  await once(process.stdin, 'data')
  await session.query('select 1').catch((error) => { throw heard ?? error })
}

main().then(() => process.exit(), tell)
