-- Undo: when a step of an atomic workflow fails or is cancelled, the rest of the workflow is cancelled, and when the
-- last of it has ended, the undo tasks are made, in the same call (the first of very many): the last that ended is undone first, each after the
-- one before it, whatever that one's end was. All of it is data by then: the submit brought each step's undo task along.
-- Marks of a task (ua): a its workflow is atomic, u it has undo commands, f these also undo half of it, r it undoes,
-- l it is the last that was made, and more come.

local undo_workflow

do
  local function is_marked(t, mark)
    return special(t).ua and string.find(t.ua, mark, 1, true)
  end

  local function stop_text(t)
    return t.nm .. (t.s == 'FAILED' and ' failed' or ' was cancelled')
  end

  -- Ends what is open of the workflow of `t`, which has just ended as it should not.
  local function stop_flow(t, cancelled)
    call('HSET', P .. 'wf:' .. t.wf, 'ud', 'stopping', 'us', t.s, 'uw', stop_text(t))
    local before = UNDO.stopping
    UNDO.stopping = t.wf
    for _, id in ipairs(call('LRANGE', P .. 'wt:' .. t.wf, 0, -1)) do
      local one = load(id)
      if one and not TERMINAL[one.s] then
        cancel_one(one, stop_text(t) .. ', so the workflow is undone', 'undo', UNDO.told, cancelled)
      end
    end
    UNDO.stopping = before
  end

  -- How many tasks are open, the worst end of the others, the steps to undo (the last that ended comes first), and how
  -- many completed tasks are not here any more.
  local function survey(flow)
    local open, worst, steps, gone = 0, 'COMPLETED', {}, tonumber(call('HGET', P .. 'wn:' .. flow, 'COMPLETED') or 0)
    for _, id in ipairs(call('LRANGE', P .. 'wt:' .. flow, 0, -1)) do
      local v = call('HMGET', P .. 't:' .. id, 's', 'cs')
      if v[1] and not TERMINAL[v[1]] then open = open + 1 end
      if v[1] == 'COMPLETED' then gone = gone - 1 end
      if v[1] == 'FAILED' or v[1] == 'CANCELLED' and worst ~= 'FAILED' then worst = v[1] end
      if v[2] then steps[#steps + 1] = { id = id, at = tonumber(v[2]) } end
    end
    table.sort(steps, function(x, y) return x.at > y.at end)
    return open, worst, steps, gone
  end

  -- What a step's undo task needs ends with the step and a place for the undo task before it: see undo_payload in undo.py.
  local function fill_place(payload, step, before)
    local place = ',"' .. step .. '.undo"]'
    local from, to = string.find(payload, '"' .. step .. '"' .. place, 1, true)
    local filled = '"' .. step .. '"' .. (before and ',"' .. before .. '"]' or ']')
    return string.sub(payload, 1, from - 1) .. filled .. string.sub(payload, to + 1)
  end

  local function write_undo(step, before, seq, marks)
    local v = call('HMGET', P .. 't:' .. step, 'a', 'nm', 'mx', 'wf', 'nd', 'un', 'dl', 'md', 'lk')
    local needs, more = {}, { 'x', 1, 'ua', marks }
    for need in string.gmatch(v[5] or '', '%S+') do needs[#needs + 1] = need end
    needs[#needs + 1] = step
    needs[#needs + 1] = before
    for i, field in ipairs({ 'dl', 'md', 'lk' }) do
      if v[6 + i] then
        more[#more + 1] = field
        more[#more + 1] = v[6 + i]
      end
    end
    write_task({ id = step .. '.undo', nm = 'undo-' .. v[2], a = v[1], p = 10, mx = v[3], r = 'all_done', wf = v[4],
      payload = fill_place(v[6], step, before), needs = needs, more = more }, '', seq, NEVER)
  end

  -- The next undo tasks of a workflow, after the one named `before`. The last of them brings those that follow.
  local function make_some(flow, before)
    local key, seq, made = P .. 'undo:' .. flow, next_sequence(), {}
    for _, step in ipairs(call('LPOP', key, CHUNK) or {}) do
      seq = seq + 1
      made[#made + 1] = step .. '.undo'
      write_undo(step, before, seq, 'r')
      before = step .. '.undo'
    end
    call('SET', P .. 'seq', int(seq))
    if call('EXISTS', key) == 1 then call('HSET', P .. 't:' .. before, 'ua', 'rl') end
    for _, id in ipairs(made) do place(load(id)) end
  end

  local function make(flow, worst, steps)
    call('HSET', P .. 'wf:' .. flow, 'ud', 'made', 'us', worst)
    for _, step in ipairs(steps) do
      if call('EXISTS', P .. 'p:' .. step.id .. '.undo') == 0 then call('RPUSH', P .. 'undo:' .. flow, step.id) end
    end
    make_some(flow)
  end

  local function bring_next(t)
    call('HSET', P .. 't:' .. t.id, 'ua', 'r') -- once: it may be tried again
    make_some(t.wf, t.id)
  end

  -- One step of an atomic workflow has ended.
  local function follow_one(t, cancelled)
    local stage = call('HGET', P .. 'wf:' .. t.wf, 'ud')
    if stage == 'made' or not stage and t.s == 'COMPLETED' then return end
    if UNDO.stopping == t.wf then return end -- not after each of them
    if not stage then stop_flow(t, cancelled) end
    local open, worst, steps = survey(t.wf)
    if open == 0 then make(t.wf, worst, steps) end
  end

  -- A step whose condition was false did nothing.
  local function was_skipped(t)
    local result = call('GET', P .. 'r:' .. t.id)
    if not result or not string.find(result, '"skipped":true', 1, true) then return false end
    local read, value = pcall(cjson.decode, result)
    return read and value.skipped == true
  end

  -- Called when tasks have ended: numbers what may have to be undone, and ends atomic workflows that failed.
  function UNDO.follow(cancelled)
    while ENDED.seen < #ENDED do
      ENDED.seen = ENDED.seen + 1
      local t = ENDED[ENDED.seen]
      local done = t.s == 'COMPLETED' and is_marked(t, 'u') and not was_skipped(t)
      if done or t.s ~= 'COMPLETED' and t.st > 0 and is_marked(t, 'f') then
        call('HSET', P .. 't:' .. t.id, 'cs', call('INCR', P .. 'steps'))
      end
      if is_marked(t, 'a') then follow_one(t, cancelled) end
      if is_marked(t, 'l') then bring_next(t) end
    end
  end

  -- New tasks of atomic workflows get their mark.
  function UNDO.mark(tasks)
    local atomic = {}
    for _, t in ipairs(tasks) do
      if t.wf ~= '' and atomic[t.wf] == nil then atomic[t.wf] = call('HGET', P .. 'wf:' .. t.wf, 'am') end
      if atomic[t.wf] then
        local n = #t.more
        t.more[n + 1], t.more[n + 2], t.more[n + 3], t.more[n + 4] = 'x', 1, 'ua', (t.ua or '') .. 'a'
      end
    end
  end

  -- Why a task may not run again, or nil: what was undone would stand beside what is not.
  function UNDO.refusal(t)
    if not t.wf or is_marked(t, 'r') then return nil end
    local stage = call('HGET', P .. 'wf:' .. t.wf, 'ud')
    if not stage then return nil end
    return 'task ' .. t.id .. ' cannot be tried again: its workflow ' .. t.wf
      .. (stage == 'made' and ' was undone' or ' is being undone') .. '; run the workflow again'
  end

  -- args: workflow, reason, token; how many steps are undone
  undo_workflow = function(args)
    local key = P .. 'wf:' .. args[1]
    if call('EXISTS', key) == 0 then return not_found('workflow ' .. args[1] .. ' does not exist') end
    local v = call('HMGET', key, 'ud', 'uk')
    local open, worst, steps, gone = survey(args[1])
    if v[2] and v[2] == args[3] then return #steps end
    if v[1] == 'stopping' then return conflict('workflow ' .. args[1] .. ' is being undone already') end
    if v[1] then
      return conflict('workflow ' .. args[1] .. ' was undone already; `ai-infra task retry ID` tries an undo again that failed')
    end
    if open > 0 then
      return conflict('workflow ' .. args[1] .. ' has ' .. open .. ' open task' .. (open > 1 and 's' or '')
        .. '; wait for its end, or cancel it, and then undo it')
    end
    if gone > 0 then
      return conflict('workflow ' .. args[1] .. ' cannot be undone any more: ' .. gone .. ' of its completed tasks '
        .. (gone > 1 and 'are' or 'is') .. ' archived; nothing was undone')
    end
    if #steps == 0 then
      return conflict('workflow ' .. args[1] .. ' has nothing to undo: none of its completed tasks has undo commands')
    end
    call('HSET', key, 'uw', args[2], 'uk', args[3])
    make(args[1], worst, steps)
    return #steps
  end
end
