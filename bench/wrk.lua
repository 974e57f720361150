-- One request over and over; every answer is checked. Arguments after "--":
-- METHOD, the body's file or "-", what an answer holds, how often, then headers as "Name: value".
local threads = {}

local function contents(path)
  local file = assert(io.open(path, "rb"))
  local bytes = file:read("*a")
  file:close()
  return bytes
end

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  bad, example = 0, ""
  wrk.method, needle, times = args[1], args[3], tonumber(args[4])
  if args[2] ~= "-" then wrk.body = contents(args[2]) end
  for i = 5, #args do
    local name, value = args[i]:match("^(.-): (.*)$")
    wrk.headers[name] = value
  end
end

local function occurrences(text)
  local found, at = 0, 1
  while true do
    local begin, finish = text:find(needle, at, true)
    if not begin then return found end
    found, at = found + 1, finish + 1
  end
end

function response(status, _, body)
  if status ~= 200 or occurrences(body) ~= times then
    bad, example = bad + 1, status .. " " .. body:sub(1, 100)
  end
end

function done(summary, latency)
  local failed, text = 0, ""
  for _, thread in ipairs(threads) do
    failed = failed + thread:get("bad")
    text = thread:get("example")
  end
  local errors = summary.errors
  failed = failed + errors.connect + errors.read + errors.write + errors.timeout
  io.stderr:write(string.format("%d %d %d %.3f %.3f %s\n", summary.requests, summary.duration,
    failed, latency:percentile(50), latency:percentile(99), text:gsub("%s", " ")))
end
