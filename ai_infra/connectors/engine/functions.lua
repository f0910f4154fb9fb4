-- The table of functions.

-- What a call leaves for its end: locks that became free, and its events.
local function settle_call()
  wake_freed()
  write_events()
end

local function version()
  return { VERSION, DIGEST, tonumber(call('GET', P .. 'schema') or 0) }
end

local function moves()
  local out = {}
  for from, targets in pairs(MOVES) do
    local row = { from }
    for to in pairs(targets) do row[#row + 1] = to end
    out[#out + 1] = row
  end
  return out
end

-- Reading works while writing is refused; when memory is full, only new work is refused.
local READS = { 'no-writes' }
local WORKS = { 'allow-oom' }
local FUNCTIONS = {
  { 'version', version, READS }, { 'moves', moves, READS }, { 'beats', beats, READS }, { 'get', get, READS },
  { 'list', list, READS }, { 'find', find, READS }, { 'workflow', workflow, READS },
  { 'workflows', list_workflows, READS }, { 'counts', counts, READS },
  { 'paused', paused_workflows, READS },
  { 'submit', submit, {} }, { 'commit', commit, WORKS }, { 'abort', abort, WORKS },
  { 'claim', claim, WORKS }, { 'recover', recover, READS }, { 'start', start, WORKS }, { 'finish', finish, WORKS },
  { 'give_back', return_task, WORKS }, { 'release', release_worker, WORKS }, { 'retire', retire, WORKS },
  { 'tick', tick, WORKS }, { 'beat', beat, WORKS }, { 'own', take_over, WORKS }, { 'forget_beat', forget_beat, WORKS },
  { 'cancel', cancel, WORKS }, { 'cancel_workflow', cancel_workflow, WORKS }, { 'retry', retry, WORKS },
  { 'watch', watch, WORKS }, { 'unwatch', unwatch, WORKS }, { 'upgrade', upgrade, WORKS },
  { 'undo_workflow', undo_workflow, WORKS },
  { 'pause_agent', pause_agent, WORKS }, { 'pause_workflow', pause_workflow, WORKS }, { 'limit', limit_agent, WORKS },
  { 'handoff', HANDOFF.hand_over, WORKS },
  { 'mail_register', POST.register, {} }, { 'mail_send', POST.send, {} }, { 'mail_take', POST.take, WORKS },
  { 'mail_judge', POST.judge, WORKS }, { 'mail_watch', POST.watch, WORKS }, { 'mail_unwatch', POST.unwatch, WORKS },
  { 'mail_get', POST.get, READS }, { 'mail_list', POST.list, READS },
  { 'finished', KEEPING.finished, READS }, { 'forget', KEEPING.forget, WORKS },
  { 'dropped', KEEPING.dropped, READS }, { 'missing', KEEPING.missing, READS },
  { 'records', KEEPING.records, READS }, { 'history', KEEPING.history, READS },
  { 'import', KEEPING.import, {} },
}
for i = 1, #FUNCTIONS do -- ipairs is not there yet
  local f = FUNCTIONS[i]
  local act = f[2]
  local function whole(keys, args)
    begin(keys)
    local answer = act(args)
    settle_call()
    return answer
  end
  redis.register_function({ function_name = 'ai_' .. f[1], callback = whole, flags = f[3] })
end
