// The stream at argv[2] as the npm package `eventsource` reads it: one JSON array [id, event, data] a line, until the
// record that ends the session, or until the daemon says not to come again.
import {EventSource} from 'eventsource'

const source = new EventSource(process.argv[2])
for (const name of ['record', 'sync', 'delta', 'heartbeat', 'gap', 'bye']) {
  source.addEventListener(name, (event) => {
    console.log(JSON.stringify([event.lastEventId, name, event.data]))
    if (name === 'record' && event.data.includes('"type":"session.ended"')) source.close()
  })
}
source.onerror = () => {
  if (source.readyState === EventSource.CLOSED) console.log(JSON.stringify(['', 'closed', '']))
}
