vim9script
# Kheish for Vim 9, with `kheish` on the PATH. Copy it into ~/.vim/plugin.
#
#   :Kheish TEXT          submit TEXT to the session of this directory, and show what happens there
#   :'<,'>Kheish [TEXT]   the same with these lines attached; alone they are the text
#   :Kheish               only show
#   :KheishInterrupt      stop the active run of this directory
#   :KheishInbox          what waits for a human, in all sessions. In its window: `a` allows, `d` denies and asks why,
#                         Enter chooses or answers, `r` looks again
#   :KheishDecide WHAT    the same in words: allow, deny WHY, 2 or 1,3 for options, or an answer of your own
#
#   set statusline+=%{g:KheishStatus()}
#   g:kheish_options = ['--model', 'claude']      more options for `kheish run`
#
# The `kheish` command finds the daemon or starts it, and `kheish sessions stream` follows a session across restarts.

if exists('g:loaded_kheish') || !has('job')
  finish
endif
g:loaded_kheish = 1

var views: dict<dict<any>> = {}
var waiting = -1
var counts = 0
var inbox = -1
var shown: list<dict<any>> = []

# What hides, moves the cursor or turns the direction of a text; it is written out.
const HIDDEN = '[\x01-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb'
  .. '\U000e0000-\U000e007f]'

def Inert(text: string): string
  return text->substitute("\r\n", "\n", 'g')->substitute(HIDDEN, (m) => printf('\u%04x', char2nr(m[0])), 'g')
enddef

def Say(text: string, highlight = 'None')
  execute 'echohl' highlight
  echomsg 'kheish: ' .. Inert(text)->substitute('^kheish: ', '', '')->split()->join()
  echohl None
enddef

# Runs `kheish` and calls Done(its standard output), or says what was wrong.
def Run(arguments: list<string>, Done: func(string), input = '', cwd = getcwd())
  if !executable('kheish')
    Say('cannot find kheish on the PATH', 'ErrorMsg')
    return
  endif
  var [out, err, status, open] = ['', '', -1, 2]
  const End = () => {
    open -= 1
    if open == 0 && (status == 0 || out != '')
      Done(out)
    elseif open == 0
      Say(err, 'ErrorMsg')
    endif
  }
  const job = job_start(['kheish'] + arguments, {
    mode: 'raw', noblock: true, cwd: cwd,
    out_cb: (_, part) => {
      out ..= part
    },
    err_cb: (_, part) => {
      err ..= part
    },
    close_cb: (_) => End(),
    exit_cb: (_, code) => {
      status = code
      End()
    },
  })
  ch_sendraw(job, input)
  ch_close_in(job)
enddef

# A window on text that nobody interprets: no file, no modeline, no file type.
def Open(name: string): number
  const buffer = bufadd(name)
  silent bufload(buffer)
  for [option, value] in items({buftype: 'nofile', swapfile: false, modeline: false, undolevels: -1, modifiable: false})
    setbufvar(buffer, '&' .. option, value)
  endfor
  if bufwinid(buffer) < 0
    const before = win_getid()
    execute $'botright :{&lines / 3}split'
    execute 'buffer' buffer
    win_gotoid(before)
  endif
  return buffer
enddef

# Puts lines in the place of all from `first` on; a window that showed the end goes on showing it.
def Write(buffer: number, first: number, lines: list<string>)
  if bufloaded(buffer)
    const end = getbufinfo(buffer)[0].linecount
    setbufvar(buffer, '&modifiable', true)
    setbufline(buffer, first, lines)
    if end >= first + len(lines)
      silent deletebufline(buffer, first + len(lines), '$')
    endif
    setbufvar(buffer, '&modifiable', false)
    for window in win_findbuf(buffer)
      win_execute(window, $'if line(".") >= {end} | cursor(line("$"), 1) | endif')
    endfor
  endif
enddef

# -- the session of a directory ---------------------------------------------------------------------------------------

# Follows a session in a view, from 200 records ago, or from where it was left. `live` is what the model says just now;
# it stands from line `next` on until the record of it takes its place.
def Follow(view: dict<any>, session: dict<any>)
  if has_key(view, 'job') && job_status(view.job) == 'run'
    return
  endif
  const cursor = get(view, 'cursor', max([0, session.seq - 200]))
  view.job = job_start(['kheish', 'sessions', 'stream', session.session_id, $'--cursor={cursor}'], {
    in_io: 'null',
    out_cb: (_, line) => Take(view, json_decode(line)),
    err_cb: (_, line) => Say(line, 'ErrorMsg'),
  })
enddef

def Take(view: dict<any>, frame: dict<any>)
  view.cursor = frame.id ?? view.cursor
  if frame.event == 'sync' || frame.event == 'bye'
    # What was said and is not in the journal is said again.
    Show(view, '')
    Count()
  elseif frame.event == 'delta' && frame.data.kind == 'text'
    Show(view, view.live .. frame.data.text)
  elseif frame.event == 'record'
    for fact in frame.data.events
      Tell(view, fact)
    endfor
  endif
enddef

def Tell(view: dict<any>, fact: dict<any>)
  const kind = fact.type
  if kind == 'run.submitted' || kind == 'input.steered'
    Show(view, view.live, '> ' .. fact.text)
  elseif kind == 'model_call.completed'
    const calls = get(fact, 'tool_requests', [])->mapnew((_, call) => $'* {call.tool} {json_encode(call.arguments)}')
    Show(view, '', join((fact.text == '' ? [] : [fact.text]) + calls, "\n"))
  elseif kind == 'model_call.retrying' || kind == 'model_call.died'
    Show(view, '')
  elseif kind == 'tool_call.completed' && get(fact, 'is_error', false)
    Show(view, view.live, '! ' .. fact.output)
  elseif kind =~ '^\%(approval\|question\)\.'
    Count()
    Show(view, view.live, kind =~ 'requested$' ? '? it waits for you: :KheishInbox' : '')
  elseif kind =~ '^run\.\%(completed\|failed\|cancelled\|interrupted\)$'
    Show(view, view.live, $'-- {kind->tr('.', ' ')} {get(fact, 'message', '')}'->trim())
  endif
enddef

def Show(view: dict<any>, live: string, text = '')
  const lines = text == '' ? [] : Inert(text)->trim("\n", 2)->split("\n", true)
  view.live = live
  Write(view.buffer, view.next, lines + Inert(live)->split("\n", true))
  view.next += len(lines)
enddef

def Submit(text: string, count: number, first: number, last: number)
  const cwd = resolve(getcwd())
  const selected = count < 0 ? '' : getline(first, last)->join("\n")
  if !has_key(views, cwd)
    views[cwd] = {next: 1, live: ''}
  endif
  const view = views[cwd]
  view.buffer = Open('kheish://' .. cwd)
  if text == '' && selected == ''
    # The session of this directory, whether it is at work or not.
    Run(['wait', '--timeout', '0', '--json'], (out) => Follow(view, json_decode(out)), '', cwd)
    return
  endif
  var options = get(g:, 'kheish_options', []) + ['--key', $'vim-{getpid()}-{reltime()->join('.')}']
  const file = tempname() .. expand('%:t')
  if text != '' && selected != ''
    writefile(selected->split("\n", true), file)
    options += ['--attach', file]
  endif
  Run(['run', '--detach', '--json'] + options + ['-'], (out) => {
    delete(file)
    Run(['sessions', 'get', '--json', json_decode(out).session_id], (found) => Follow(view, json_decode(found)))
  }, text ?? selected, cwd)
enddef

# -- what waits for a human -------------------------------------------------------------------------------------------

def g:KheishStatus(): string
  return waiting < 0 ? '' : waiting == 0 ? 'kheish' : $'kheish: {waiting} waiting'
enddef

# Starts no daemon. Of several answers the one that was asked for last counts.
def Count()
  counts += 1
  const this_count = counts
  Run(['daemon', 'status', '--json'], (out) => {
    if this_count == counts
      const found = get(json_decode(out), 'inbox', {approvals: -1, questions: 0})
      waiting = found.approvals + found.questions
      redrawstatus!
    endif
  })
enddef

# Each line that others wrote stands behind a bar, so that none can pass for one of ours.
def Quoted(text: string): list<string>
  return Inert(text)->split("\n", true)->map((_, line) => '    | ' .. line)
enddef

def Described(request: dict<any>): list<string>
  var lines: list<string> = []
  if has_key(request, 'digest')
    const title = request.kind == 'uncertain' ? 'OUTCOME UNKNOWN' : 'APPROVAL'
    lines += [title .. '  ' .. request.session_id] + Quoted(request.tool)
    for [name, value] in items(request.input)->sort()
      lines += Quoted(name .. ': ' .. (type(value) == v:t_string ? value : json_encode(value)))
    endfor
    lines += ['  in'] + Quoted(request.cwd) + [$'  {join(request.choices, ', ')}  ({request.digest[: 7]})']
  else
    lines += ['QUESTION  ' .. request.session_id]
    for item in request.questions
      lines += Quoted(item.question)
      for option in item.options
        lines += ['  ' .. option.id] + Quoted(trim(option.label .. "\n" .. option.description))
      endfor
    endfor
  endif
  return lines + ['']
enddef

# The inbox is written when somebody asks for it, not while somebody reads it: what is decided is what is shown.
def Inbox()
  Run(['inbox', '--json'], (out) => {
    const found = json_decode(out)
    var lines: list<string> = []
    shown = []
    for request in found.approvals + found.questions
      shown += [{first: len(lines) + 1, request: request}]
      lines += Described(request)
    endfor
    inbox = Open('kheish://inbox')
    Write(inbox, 1, lines ?? ['nothing waits for you'])
    win_gotoid(bufwinid(inbox))
    cursor(1, 1)
    nnoremap <buffer> a <ScriptCmd>Decide('allow')<CR>
    nnoremap <buffer> d <ScriptCmd>Decide('deny ' .. input('why? '))<CR>
    nnoremap <buffer> <CR> <ScriptCmd>Decide(input('decide: '))<CR>
    nnoremap <buffer> r <ScriptCmd>Inbox()<CR>
  })
enddef

# Numbers choose options, anything else is an answer by itself; several questions have `;` between their answers.
def Answers(questions: list<dict<any>>, given: string): list<string>
  if len(questions) == 1
    const is_choice = given =~ '^[0-9, ]\+$' && !empty(questions[0].options)
    return is_choice ? split(given, '[, ]\+')->map((_, id) => '--option=' .. id) : ['--', given]
  endif
  var options: list<string> = []
  for [i, answer] in items(split(given, ';'))
    options += split(answer, ',')->map((_, choice) => $'--option={i + 1}={trim(choice)}')
  endfor
  return options
enddef

# Decides about what is under the cursor of the inbox.
def Decide(given: string)
  const found = copy(shown)->filter((_, entry) => entry.first <= line('.', bufwinid(inbox)))
  if given == '' || empty(found) || get(found[-1], 'is_decided', false)
    Say('put the cursor of :KheishInbox on what you decide, and say what', 'ErrorMsg')
    return
  endif
  const [entry, request] = [found[-1], found[-1].request]
  const [choice, why] = matchlist(given, '^\(\S*\)\s*\(.*\)')[1 : 2]
  var arguments: list<string> = []
  if !has_key(request, 'digest')
    arguments = ['answer', request.request_id] + Answers(request.questions, given)
  elseif index(request.choices, choice) < 0
    Say('choose one of ' .. join(request.choices, ', '), 'ErrorMsg')
    return
  elseif choice == 'deny'
    arguments = ['deny', request.request_id, '-m', why]
  else
    arguments = ['approve', request.request_id, '-m', why, '--if-digest', request.digest]
      + (choice == 'allow' ? [] : ['--' .. tr(choice, '_', '-')])
  endif
  Run(arguments, (out) => {
    entry.is_decided = true
    Write(inbox, entry.first, ['DECIDED  ' .. given] + getbufline(inbox, entry.first + 1, '$'))
    Say(out)
    Count()
  })
enddef

command -nargs=? -range=-1 Kheish Submit(<q-args>, <count>, <line1>, <line2>)
command KheishInterrupt Run(['interrupt'], (out) => Say(out))
command KheishInbox Inbox()
command -nargs=1 KheishDecide Decide(<q-args>)

if executable('kheish')
  Count()
  timer_start(10'000, (_) => Count(), {repeat: -1})
endif
