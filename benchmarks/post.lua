-- Posts JSON bodies in turn: wrk ... -s post.lua URL -- FILE [RUN]
-- The first line of FILE is the path, each other line is a body. Prints the measurements as one
-- line of JSON after "result ". RUN, 16 hexadecimal digits unique to this run, gives each request a
-- traceparent header of its own (W3C Trace Context) and is the first half of its trace id.
local MARK = "the-traceparent"
local requests, next_one, run, sent = {}, 0, nil, 0

-- Splits a request where its traceparent goes, so that sending one formats no head.
local function prepared(text)
  if not run then return text end
  local first, last = text:find(MARK, 1, true)
  return { text:sub(1, first - 1), text:sub(last + 1) }
end

function init(arguments)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  run = arguments[2]
  wrk.headers["traceparent"] = run and MARK
  local path
  for line in io.lines(arguments[1]) do
    if path then
      requests[#requests + 1] = prepared(wrk.format(nil, path, nil, line))
    else
      path = line
    end
  end
end

function request()
  next_one = next_one % #requests + 1
  local each = requests[next_one]
  if not run then return each end
  sent = sent + 1
  return table.concat({ each[1], string.format("00-%s%016x-%016x-01", run, sent, sent), each[2] })
end

function done(summary, latency, _)
  local errors, curve = summary.errors, {}
  for _, percentile in ipairs({ 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9 }) do
    curve[#curve + 1] = string.format("[%g,%.3f]", percentile, latency:percentile(percentile) / 1000)
  end
  io.write(string.format(
    'result {"requests":%d,"seconds":%.3f,"refused":%d,"broken":%d,"late":%d,"milliseconds":[%s]}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write, errors.timeout, table.concat(curve, ",")))
end
