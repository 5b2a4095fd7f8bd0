// Lists the tools of a server and calls one, some times over, with an official client for TypeScript:
// node_client.mjs CLIENT URL TOKEN TOOL ARGUMENTS TIMES. Writes what came of it as JSON.

const [which, url, token, name, given, times] = process.argv.slice(2);
const about = { name: "tried", version: "1" };
const transportOptions = { requestInit: { headers: { Authorization: `Bearer ${token}` } } };

let client, Transport;
if (which === "sdk-1") {
  const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
  ({ StreamableHTTPClientTransport: Transport } = await import("@modelcontextprotocol/sdk/client/streamableHttp.js"));
  client = new Client(about);
} else {
  const { Client, StreamableHTTPClientTransport } = await import("@modelcontextprotocol/client");
  Transport = StreamableHTTPClientTransport;
  client = new Client(about, which === "client-2-auto" ? { versionNegotiation: { mode: "auto" } } : {});
}
const transport = new Transport(new URL(url), transportOptions);
await client.connect(transport);
const { tools } = await client.listTools();
const answers = [];
for (let n = 0; n < Number(times); n++) {
  const result = await client.callTool({ name, arguments: JSON.parse(given) });
  answers.push({ text: result.content[0].text, refused: Boolean(result.isError) });
}
const version = client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion;
await client.close();
console.log(JSON.stringify({ tools: tools.map((tool) => tool.name), answers, version }));
