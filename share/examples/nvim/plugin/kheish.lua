-- Kheish for Neovim 0.7 or later: the commands. Needs `kheish` on the PATH; copy this directory's plugin and lua into
-- ~/.config/nvim.
--
--   :Kheish TEXT          submit TEXT to the session of this directory, and show what happens there
--   :'<,'>Kheish [TEXT]   the same with these lines attached; alone they are the text
--   :Kheish               only show
--   :KheishInterrupt      stop the active run of this directory
--   :KheishInbox          what waits for a human, in all sessions. In its window: `a` allows, `d` denies and asks why,
--                         Enter chooses or answers, `r` looks again
--   :KheishDecide WHAT    the same in words: allow, deny WHY, 2 or 1,3 for options, or an answer of your own
--
--   vim.o.statusline = "%f %{v:lua.require'kheish'.status()}"
--   require('kheish').options = { '--model', 'claude' }      more options for `kheish run`

local function command(name, run, options)
  vim.api.nvim_create_user_command(name, function(given) run(require('kheish'), given) end, options)
end

command('Kheish', function(kheish, given)
  local lines = given.range > 0 and vim.api.nvim_buf_get_lines(0, given.line1 - 1, given.line2, false) or {}
  kheish.submit(given.args, table.concat(lines, '\n'))
end, { nargs = '?', range = true })
command('KheishInterrupt', function(kheish) kheish.interrupt() end, {})
command('KheishInbox', function(kheish) kheish.inbox() end, {})
command('KheishDecide', function(kheish, given) kheish.decide(given.args) end, { nargs = 1 })
