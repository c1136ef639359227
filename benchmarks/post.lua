-- Posts JSON bodies in turn: wrk ... -s post.lua URL -- FILE
-- The first line of FILE is the path, each other line is a body. Prints the measurements as one
-- line of JSON after "result ".
local requests, next_one = {}, 0

function init(arguments)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  local path
  for line in io.lines(arguments[1]) do
    if path then
      requests[#requests + 1] = wrk.format(nil, path, nil, line)
    else
      path = line
    end
  end
end

function request()
  next_one = next_one % #requests + 1
  return requests[next_one]
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
