// Drives MQTT.js for the Go tests: each line of standard input is a request, each line of standard output the answer to one or a
// message that arrived. Ends with its standard input. Payloads and correlation data travel as base64.
import { createInterface } from 'node:readline'
import mqtt from 'mqtt'

const clients = new Map()

const say = (line) => process.stdout.write(JSON.stringify(line) + '\n')
const bytes = (base64) => Buffer.from(base64, 'base64')

// pairs turns MQTT.js' object, which has an array for a repeated key, into the list that was on the wire.
const pairs = (user = {}) =>
  Object.entries(user).flatMap(([key, values]) => [values].flat().map((value) => ({ key, value })))

function grouped(user) {
  const object = {}
  for (const { key, value } of user) (object[key] ??= []).push(value)
  return object
}

function publishOptions({ qos, retain, props }, version) {
  if (version !== 5) return { qos, retain }
  const properties = {}
  if (props.user) properties.userProperties = grouped(props.user) // MQTT.js never sends a message with none in the object
  if (props.contentType) properties.contentType = props.contentType
  if (props.responseTopic) properties.responseTopic = props.responseTopic
  if (props.correlation) properties.correlationData = bytes(props.correlation)
  return { qos, retain, properties }
}

function arrived(id, name, payload, { qos, retain, properties = {} }) {
  const props = {
    contentType: properties.contentType,
    responseTopic: properties.responseTopic,
    correlation: properties.correlationData?.toString('base64'),
    user: pairs(properties.userProperties),
  }
  say({ client: id, message: { name, payload: payload.toString('base64'), qos, retain, props } })
}

// opened settles with the first CONNACK, error or close.
function opened(client) {
  return new Promise((resolve, reject) => {
    client.once('error', reject)
    client.once('connect', (connack) => {
      client.on('error', (error) => console.error(`MQTT.js: ${client.options.clientId}: ${error.message}`))
      resolve({ present: connack.sessionPresent })
    })
    client.once('close', () => reject(new Error('closed by the broker')))
  })
}

const requests = {
  async connect({ client: id, url, options, will, withhold }) {
    if (will) options.will = { ...will, topic: will.name, payload: bytes(will.payload) }
    const client = mqtt.connect(url, options)
    client.on('message', (name, payload, packet) => arrived(id, name, payload, packet))
    if (withhold) client.handleMessage = () => {} // the acknowledgement waits for its callback
    clients.set(id, client)
    try {
      return await opened(client)
    } catch (error) {
      client.end(true)
      throw error
    }
  },
  async subscribe({ client, filters, qos }) {
    const granted = await clients.get(client).subscribeAsync(filters, { qos })
    for (const { topic, qos } of granted) if (qos >= 128) throw new Error(`${topic} refused with ${qos}`)
  },
  async publish({ client: id, message }) {
    const client = clients.get(id)
    const options = publishOptions(message, client.options.protocolVersion)
    await client.publishAsync(message.name, bytes(message.payload), options)
  },
  async leave({ client }) {
    await clients.get(client).endAsync()
  },
  async cut({ client }) {
    clients.get(client).stream.destroy()
  },
}

createInterface({ input: process.stdin }).on('line', (line) => {
  const request = JSON.parse(line)
  requests[request.op](request).then(
    (result) => say({ id: request.id, ...result }),
    (error) => say({ id: request.id, error: String(error.message ?? error), code: Number(error.code) || 0 }),
  )
}).on('close', () => process.exit(0))
