// Publish and consume with grpc-js and its default settings: one message a frame, one acknowledgement a frame.
//
// Usage: plain.mjs QUEUE COUNT. README.md describes the environment and the output.
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import grpc from '@grpc/grpc-js'
import loader from '@grpc/proto-loader'

const [queue, countText] = process.argv.slice(2)
const count = Number(countText)
const proto = fileURLToPath(new URL('../../../proto', import.meta.url))
const files = ['auth', 'messaging'].map((name) => `warrengate/v1/${name}.proto`)
const definition = loader.loadSync(files, { includeDirs: [proto], keepCase: true, longs: Number, enums: String })
const { Auth, Messaging } = grpc.loadPackageDefinition(definition).warrengate.v1
const address = process.env.WARRENGATE_ENDPOINT.replace('https://', '')
const credentials = grpc.credentials.createSsl(readFileSync(process.env.WARRENGATE_CA))

const token = await new Promise((resolve, reject) => {
  const request = { client_id: process.env.WARRENGATE_CLIENT_ID, client_secret: process.env.WARRENGATE_CLIENT_SECRET }
  new Auth(address, credentials).IssueToken(request, (error, answer) => (error ? reject(error) : resolve(answer.access_token)))
})
const metadata = new grpc.Metadata()
metadata.set('authorization', `Bearer ${token}`)
const messaging = new Messaging(address, credentials)

// Promise.withResolvers, which Node.js has from version 22.
function withResolvers() {
  const deferred = {}
  deferred.promise = new Promise((resolve, reject) => Object.assign(deferred, { resolve, reject }))
  return deferred
}

async function publish() {
  const call = messaging.Publish(metadata)
  let sequence = 0
  let throttled = 0
  for (let toSend = count; toSend > 0; ) {
    const answered = withResolvers()
    let unanswered = toSend
    let refused = 0
    let pause = 0
    call.removeAllListeners('data').on('data', (event) => {
      for (const result of event.results?.results ?? []) {
        unanswered -= 1
        if (result.outcome === 'OUTCOME_THROTTLED') {
          refused += 1
          pause = Math.max(pause, result.retry_after.seconds * 1000 + result.retry_after.nanos / 1e6)
        } else if (result.outcome !== 'OUTCOME_CONFIRMED') {
          answered.reject(new Error(JSON.stringify(result)))
        }
      }
      if (unanswered === 0) answered.resolve()
    })
    call.once('error', answered.reject)
    for (; toSend > 0; toSend -= 1) {
      sequence += 1
      const publication = { sequence, routing_key: queue, message: { body: Buffer.from(String(sequence)) } }
      // What write() returns is ignored, as by a program that does not know of it.
      call.write({ publications: { publications: [publication] } })
    }
    await answered.promise
    call.removeListener('error', answered.reject)
    throttled += refused
    toSend = refused
    await sleep(pause)
  }
  call.end()
  await once(call, 'end')
  return throttled
}

async function consume() {
  const call = messaging.Subscribe(metadata)
  const attempts = {}
  let last = 0
  let inOrder = true
  let delivered = 0
  const all = withResolvers()
  call.on('error', all.reject)
  call.on('data', (event) => {
    if (event.settled) all.reject(new Error(`an acknowledgement had no effect: ${JSON.stringify(event)}`))
    for (const delivery of event.deliveries?.deliveries ?? []) {
      delivered += 1
      attempts[delivery.attempt] = (attempts[delivery.attempt] ?? 0) + 1
      const body = Number(delivery.message.body.toString())
      inOrder &&= body > last
      last = body
      call.write({ ack: { delivery_ids: [delivery.delivery_id] } })
    }
    if (delivered === count) all.resolve()
    if (delivered > count) throw new Error('there were more deliveries than messages')
  })
  call.write({ start: { queue } })
  await all.promise
  call.end()
  await once(call, 'end')
  return { attempts, in_order: inOrder }
}

const seconds = (from, to) => Math.round((to - from) / 100) / 10
const began = performance.now()
const throttled = await publish()
const published = performance.now()
const consumed = await consume()
const { version } = createRequire(import.meta.url)('@grpc/grpc-js/package.json')
const answer = {
  library: `grpc-js ${version}`,
  throttled,
  ...consumed,
  publish_seconds: seconds(began, published),
  consume_seconds: seconds(published, performance.now()),
}
console.log(JSON.stringify(answer))
messaging.close()
