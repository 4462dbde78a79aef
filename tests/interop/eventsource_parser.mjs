// The stream at argv[2] over fetch, parsed by the npm package `eventsource-parser`; it reconnects by itself with the
// last id after the time that the stream names. Output as of eventsource.mjs.
import {createParser} from 'eventsource-parser'
import {setTimeout} from 'node:timers/promises'

let lastId = ''
let retryMs = 3000
let isOver = false

async function read() {
  const response = await fetch(process.argv[2], {headers: lastId ? {'Last-Event-ID': lastId} : {}})
  if (response.status === 204) {
    console.log(JSON.stringify(['', 'closed', '']))
    isOver = true
    return
  }
  const parser = createParser({
    onRetry: (ms) => { retryMs = ms },
    onEvent: ({id, event, data}) => {
      if (id !== undefined) lastId = id
      console.log(JSON.stringify([id ?? '', event, data]))
      isOver ||= event === 'record' && data.includes('"type":"session.ended"')
    },
  })
  const decoder = new TextDecoder()
  for await (const chunk of response.body) {
    parser.feed(decoder.decode(chunk, {stream: true}))
    if (isOver) return
  }
}

while (!isOver) {
  await read().catch(() => undefined)
  if (!isOver) await setTimeout(retryMs)
}
process.exit(0)
