-- The daemon, from Neovim: the `kheish` command where something has to be found or started, HTTP and server-sent events
-- over its Unix socket for the rest. complain(text) is called with what went wrong.

local M = { complain = print }

local uv = vim.uv or vim.loop
local socket
local streams = {}

-- Runs `kheish` and calls done(its standard output), or failed(why).
function M.run(arguments, done, options)
  options = options or {}
  local failed = options.failed or M.complain
  if vim.fn.executable('kheish') == 0 then return failed('cannot find kheish on the PATH') end
  local out, err = {}, {}
  local job = vim.fn.jobstart({ 'kheish', unpack(arguments) }, {
    cwd = options.cwd or '/',
    stdout_buffered = true,
    stderr_buffered = true,
    on_stdout = function(_, lines) out = lines end,
    on_stderr = function(_, lines) err = lines end,
    on_exit = function(_, status)
      local text = table.concat(out, '\n')
      if status == 0 or text ~= '' then done(text) else failed(table.concat(err, '\n')) end
    end,
  })
  vim.fn.chansend(job, options.input or '')
  vim.fn.chanclose(job, 'stdin')
end

-- A name for a command that is the same when it has to be sent again.
function M.key() return ('nvim-%d-%d'):format(uv.getpid(), uv.hrtime()) end

-- Calls done() when a daemon runs, and takes up the streams that had given up on it.
function M.start(done, failed)
  M.run({ 'daemon', 'start', '--json' }, function(out)
    socket = vim.json.decode(out).socket
    for _, stream in ipairs(streams) do
      if stream.gave_up then
        stream.gave_up = false
        stream.connect()
      end
    end
    done()
  end, { failed = failed })
end

-- One request, on a connection of its own: part(text) as the body comes, then ended(status), without a status where the
-- connection broke. Both are called in order, and where the editor's API may be used.
local function http(method, path, headers, body, part, ended)
  local pipe, timer = uv.new_pipe(false), uv.new_timer()
  local data, status, left, is_chunked = '', nil, math.huge, false
  part, ended = vim.schedule_wrap(part), vim.schedule_wrap(ended)
  local function finish(is_whole)
    if pipe:is_closing() then return end
    pipe:close()
    timer:close()
    ended(is_whole and status or nil)
  end
  -- A heartbeat comes every 15 s: what is silent for longer than three is dead.
  local function alive() timer:start(45000, 0, function() finish(false) end) end
  local function take()
    if not status then
      local head, rest = data:match('^(.-\r\n)\r\n()')
      if not head then return end
      status, head = tonumber(head:match('^HTTP/1%.1 (%d+)')), head:lower()
      is_chunked = head:find('\r\ntransfer-encoding: chunked\r\n', 1, true) ~= nil
      left = tonumber(head:match('\r\ncontent%-length: (%d+)')) or left
      data = data:sub(rest)
    end
    while is_chunked do
      local size, start = data:match('^(%x+)\r\n()')
      local after = size and start + tonumber(size, 16)
      if not after or #data < after + 1 then return end
      if after == start then return finish(true) end
      part(data:sub(start, after - 1))
      data = data:sub(after + 2)
    end
    part(data)
    left, data = left - #data, ''
    if left <= 0 then finish(true) end
  end
  alive()
  pipe:connect(socket, function(problem)
    if problem then return finish(false) end
    local head = { method .. ' ' .. path .. ' HTTP/1.1', 'Host: kheish', 'Connection: close', 'Kheish-Origin: nvim' }
    pipe:write(table.concat(vim.list_extend(head, headers), '\r\n') .. '\r\n\r\n' .. body)
    pipe:read_start(function(_, more)
      if not more then return finish(false) end
      alive()
      data = data .. more
      take()
    end)
  end)
end

-- Calls done(answer). Where the daemon died it is started and asked again; under one key a command counts once.
function M.ask(method, path, body, done, key)
  local is_again, answer = key ~= nil, ''
  key = key or M.key()
  local text = body and vim.json.encode(body) or ''
  local headers = { 'Content-Type: application/json', 'Content-Length: ' .. #text, 'Idempotency-Key: ' .. key }
  http(method, path, headers, text, function(part) answer = answer .. part end, function(status)
    if status and status < 400 then
      done(vim.json.decode(answer))
    elseif status then
      M.complain(vim.json.decode(answer).detail)
    elseif is_again then
      M.complain('the daemon does not answer')
    else
      M.start(function() M.ask(method, path, body, done, key) end)
    end
  end)
end

-- Follows a stream: every record once, across cuts and restarts. Calls event(name, data), also for each `cut`.
function M.follow(path, cursor, event)
  local stream, pause_ms, said_bye = {}, 50, false
  function stream.connect()
    local data = ''
    http('GET', path .. '?cursor=' .. cursor, {}, '', function(part)
      data = data .. part
      for frame in data:gmatch('(.-)\n\n') do
        local fields = {}
        for name, value in frame:gmatch('(%w+): ([^\n]*)') do fields[name] = value end
        pause_ms, said_bye = 50, fields.event == 'bye'
        event(fields.event, fields.data)
        cursor = fields.id or cursor
      end
      data = data:match('.*\n\n(.*)') or data
    end, function(status)
      event('cut')
      if status and status >= 400 and status ~= 503 then return M.complain(vim.json.decode(data).detail) end
      -- Without a `bye` the daemon died: it is started again, for it owes us its runs. After one it is waited for.
      vim.defer_fn(function()
        if said_bye then return stream.connect() end
        M.start(stream.connect, function(why)
          stream.gave_up = true
          M.complain(why)
        end)
      end, pause_ms)
      pause_ms = math.min(pause_ms * 2, 5000)
    end)
  end
  table.insert(streams, stream)
  stream.connect()
end

return M
