-- Kheish for Neovim. plugin/kheish.lua has the commands, daemon.lua speaks with the daemon.

local daemon = require('kheish.daemon')

local M = { options = {} }

local views = {}
local is_watching, waiting, counts = false, nil, 0
local inbox, shown = nil, {}

-- What hides, moves the cursor or turns the direction of a text; it is written out.
local HIDDEN = '[\\x01-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u00ad\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff'
  .. '\\ufff9-\\ufffb\\U000e0000-\\U000e007f]'

local function inert(text)
  text = text:gsub('\r\n', '\n'):gsub('%z', '\\u0000')
  return vim.fn.substitute(text, HIDDEN, "\\=printf('\\u%04x', char2nr(submatch(0)))", 'g')
end

local function lines_of(text) return vim.split(inert(text), '\n', { plain = true }) end

local function say(text, level)
  text = inert(text):gsub('^kheish: ', ''):gsub('%s+', ' ')
  vim.notify('kheish: ' .. text, level or vim.log.levels.INFO)
end

function daemon.complain(text) say(text, vim.log.levels.ERROR) end

-- -- buffers ----------------------------------------------------------------------------------------------------------

-- A window on text that nobody interprets: no file, no modeline, no file type.
local function open(name)
  local buffer = vim.fn.bufadd(name)
  vim.fn.bufload(buffer)
  for option, value in pairs({ buftype = 'nofile', swapfile = false, modeline = false, modifiable = false }) do
    vim.api.nvim_buf_set_option(buffer, option, value)
  end
  if vim.fn.bufwinid(buffer) < 0 then
    local before = vim.api.nvim_get_current_win()
    vim.cmd(('botright %dsplit'):format(math.floor(vim.o.lines / 3)))
    vim.api.nvim_win_set_buf(0, buffer)
    vim.api.nvim_set_current_win(before)
  end
  return buffer
end

-- Puts lines in the place of those from `first` on; a window that showed the end goes on showing it.
local function write(buffer, first, lines, last)
  if not vim.api.nvim_buf_is_loaded(buffer) then return end
  local count = vim.api.nvim_buf_line_count(buffer)
  vim.api.nvim_buf_set_option(buffer, 'modifiable', true)
  vim.api.nvim_buf_set_lines(buffer, first, last or -1, false, lines)
  vim.api.nvim_buf_set_option(buffer, 'modifiable', false)
  for _, window in ipairs(vim.fn.win_findbuf(buffer)) do
    if not last and vim.api.nvim_win_get_cursor(window)[1] >= count then
      vim.api.nvim_win_set_cursor(window, { vim.api.nvim_buf_line_count(buffer), 0 })
    end
  end
end

-- `live` is what the model says just now; it stands from line `next` on until the record of it takes its place.
local function show(view, live, text)
  local lines = text and text ~= '' and lines_of((text:gsub('\n+$', ''))) or {}
  local count = #lines
  view.live = live
  write(view.buffer, view.next, vim.list_extend(lines, lines_of(live)))
  view.next = view.next + count
end

local OVER = { ['run.completed'] = 1, ['run.failed'] = 1, ['run.cancelled'] = 1, ['run.interrupted'] = 1 }

local function tell(view, fact)
  if fact.type == 'run.submitted' or fact.type == 'input.steered' then
    show(view, view.live, '> ' .. fact.text)
  elseif fact.type == 'model_call.completed' then
    local said = fact.text ~= '' and { fact.text } or {}
    for _, call in ipairs(fact.tool_requests or {}) do
      table.insert(said, '* ' .. call.tool .. ' ' .. vim.json.encode(call.arguments))
    end
    show(view, '', table.concat(said, '\n'))
  elseif fact.type == 'model_call.retrying' or fact.type == 'model_call.died' then
    show(view, '')
  elseif fact.type == 'tool_call.completed' and fact.is_error then
    show(view, view.live, '! ' .. fact.output)
  elseif fact.type == 'approval.requested' or fact.type == 'question.requested' then
    show(view, view.live, '? it waits for you: :KheishInbox')
  elseif OVER[fact.type] then
    show(view, view.live, vim.trim('-- ' .. fact.type:gsub('%.', ' ') .. ' ' .. (fact.message or '')))
  end
end

-- -- the session of a directory ---------------------------------------------------------------------------------------

-- Follows a session in a view, from 200 records ago on.
local function attach(view, session)
  if view.is_followed then return end
  view.is_followed = true
  local path, cursor = '/v1/sessions/' .. session.session_id .. '/stream', math.max(0, session.seq - 200)
  daemon.follow(path, ('%d'):format(cursor), function(event, data)
    if event == 'cut' then
      show(view, '')
    elseif event == 'delta' then
      local delta = vim.json.decode(data)
      if delta.kind == 'text' then show(view, view.live .. delta.text) end
    elseif event == 'record' then
      for _, fact in ipairs(vim.json.decode(data).events) do tell(view, fact) end
    end
  end)
end

local function count(event, data)
  local is_ours = event == 'record' and (data:find('"type":"approval%.') or data:find('"type":"question%.'))
  if event == 'sync' or is_ours then
    counts = counts + 1
    local this_count = counts
    daemon.ask('GET', '/v1/inbox', nil, function(found)
      -- Of several answers the one that was asked for last counts.
      if this_count == counts then waiting = #found.approvals + #found.questions end
      vim.cmd('redrawstatus!')
    end)
  elseif event == 'cut' then
    waiting = nil
  end
end

-- Calls done() when a daemon runs; what waits is counted from then on.
local function start(done)
  daemon.start(function()
    if not is_watching then
      is_watching = true
      daemon.follow('/v1/events/stream', 'tail', count)
    end
    done()
  end)
end

-- Calls done(session of a directory), whether it is at work or not.
local function with_session(cwd, done)
  start(function()
    daemon.run({ 'wait', '--timeout', '0', '--json' }, function(out) done(vim.json.decode(out)) end, { cwd = cwd })
  end)
end

function M.submit(text, selected)
  local cwd = (vim.uv or vim.loop).fs_realpath(vim.fn.getcwd())
  views[cwd] = views[cwd] or { next = 0, live = '' }
  local view = views[cwd]
  view.buffer = open('kheish://' .. cwd)
  local function follow(session) attach(view, session) end
  if text == '' and selected == '' then return with_session(cwd, follow) end
  local arguments = vim.list_extend({ 'run', '--detach', '--json', '--key', daemon.key() }, M.options)
  local file = vim.fn.tempname() .. vim.fn.expand('%:t')
  if text ~= '' and selected ~= '' then
    vim.fn.writefile(vim.split(selected, '\n', { plain = true }), file)
    vim.list_extend(arguments, { '--attach', file })
  end
  start(function()
    daemon.run(vim.list_extend(arguments, { '-' }), function(out)
      vim.fn.delete(file)
      daemon.ask('GET', '/v1/sessions/' .. vim.json.decode(out).session_id, nil, follow)
    end, { cwd = cwd, input = text ~= '' and text or selected })
  end)
end

function M.interrupt()
  with_session(vim.fn.getcwd(), function(session)
    daemon.ask('POST', '/v1/sessions/' .. session.session_id .. '/interrupt', { reason = '' }, function(answer)
      say(answer.interrupted and 'interrupted' or 'nothing is at work')
    end)
  end)
end

function M.status()
  return not waiting and '' or waiting == 0 and 'kheish' or ('kheish: %d waiting'):format(waiting)
end

-- -- what waits for a human -------------------------------------------------------------------------------------------

-- Each line that others wrote stands behind a bar, so that none can pass for one of ours.
local function quote(lines, text)
  for _, line in ipairs(lines_of(text)) do table.insert(lines, '    | ' .. line) end
end

local function describe(lines, request)
  if request.digest then
    local title = request.kind == 'uncertain' and 'OUTCOME UNKNOWN' or 'APPROVAL'
    table.insert(lines, title .. '  ' .. request.session_id)
    quote(lines, request.tool)
    local names = vim.tbl_keys(request.input)
    table.sort(names)
    for _, name in ipairs(names) do
      local value = request.input[name]
      quote(lines, name .. ': ' .. (type(value) == 'string' and value or vim.json.encode(value)))
    end
    table.insert(lines, '  in')
    quote(lines, request.cwd)
    table.insert(lines, ('  %s  (%s)'):format(table.concat(request.choices, ', '), request.digest:sub(1, 8)))
  else
    table.insert(lines, 'QUESTION  ' .. request.session_id)
    for _, item in ipairs(request.questions) do
      quote(lines, item.question)
      for _, option in ipairs(item.options) do
        table.insert(lines, '  ' .. option.id)
        quote(lines, vim.trim(option.label .. '\n' .. option.description))
      end
    end
  end
  table.insert(lines, '')
end

-- The inbox is written when somebody asks for it, not while somebody reads it: what is decided is what is shown.
function M.inbox()
  start(function()
    daemon.ask('GET', '/v1/inbox', nil, function(found)
      local lines = {}
      shown = {}
      for _, request in ipairs(vim.list_extend(found.approvals, found.questions)) do
        table.insert(shown, { first = #lines, request = request })
        describe(lines, request)
      end
      inbox = open('kheish://inbox')
      vim.api.nvim_set_current_win(vim.fn.bufwinid(inbox))
      write(inbox, 0, #lines > 0 and lines or { 'nothing waits for you' })
      vim.api.nvim_win_set_cursor(0, { 1, 0 })
      local function map(key, action) vim.keymap.set('n', key, action, { buffer = inbox }) end
      local function ask_for(prompt, before)
        return function()
          vim.ui.input({ prompt = prompt }, function(text) if text then M.decide(before .. text) end end)
        end
      end
      map('a', function() M.decide('allow') end)
      map('d', ask_for('why? ', 'deny '))
      map('<CR>', ask_for('decide: ', ''))
      map('r', M.inbox)
    end)
  end)
end

-- An answer for each question, with `;` between them: numbers choose options, anything else is an answer by itself.
local function answers(questions, given)
  local parts = #questions > 1 and vim.split(given, '%s*;%s*') or { given }
  local made = {}
  for number, item in ipairs(questions) do
    local part = parts[number] or ''
    local is_choice = #item.options > 0 and part:match('^[%d, ]+$')
    local answer = { question_id = item.id, freeform_answer = not is_choice and part or nil }
    answer.selected_option_ids = is_choice and vim.split(vim.trim(part), '[, ]+') or nil
    table.insert(made, answer)
  end
  return made
end

-- Decides about what is under the cursor of the inbox.
function M.decide(given)
  local window, entry = inbox and vim.fn.bufwinid(inbox) or -1, nil
  for _, candidate in ipairs(window >= 0 and shown or {}) do
    if candidate.first < vim.api.nvim_win_get_cursor(window)[1] then entry = candidate end
  end
  local choice, why = given:match('^(%S+)%s*(.*)$')
  if not choice or not entry or entry.is_decided then
    return daemon.complain('put the cursor of :KheishInbox on what you decide, and say what')
  end
  local request, path, body = entry.request, '/v1/questions/', nil
  if not request.digest then
    body = { answers = answers(request.questions, given) }
  elseif vim.tbl_contains(request.choices, choice) then
    path, body = '/v1/approvals/', { resolution = choice, if_digest = request.digest, justification = why }
  else
    return daemon.complain('choose one of ' .. table.concat(request.choices, ', '))
  end
  daemon.ask('POST', path .. request.request_id, body, function(run)
    entry.is_decided = true
    write(inbox, entry.first, { 'DECIDED  ' .. (inert(given):gsub('\n', ' ')) }, entry.first + 1)
    say('the run is ' .. run.status:gsub('_', ' '))
  end)
end

return M
