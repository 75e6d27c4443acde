// Sends what it is told through a websocket and prints what comes back.
// Usage: node ws_client.mjs URL TEXT
import WebSocket from "ws";

const [url, text] = process.argv.slice(2);
const socket = new WebSocket(url, ["binary"], { rejectUnauthorized: false });
let got = "";
socket.on("open", () => socket.send(Buffer.from(text)));
socket.on("message", (data, isBinary) => {
  got += data.toString();
  if (got.length < text.length) return;
  socket.close(1000);
  socket.on("close", (code) => console.log(JSON.stringify({ got, isBinary, code, protocol: socket.protocol })));
});
socket.on("error", (error) => { console.log(JSON.stringify({ error: error.message })); });
