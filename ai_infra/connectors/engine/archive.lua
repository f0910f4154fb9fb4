-- Keeping: finished tasks on their way out, and what statistics and exports read.
-- The files are the caller's: it reads what may go, has it on disk, and only then lets it be forgotten here.

local KEEPING = {} -- the functions of this file; one name, for a chunk may have 200

do
  local ROW_BYTES = 1048576 -- a call answers with about as much
  local LOOKUPS = 2000 -- and looks at so many other tasks, that it is over in milliseconds

  local function record(id)
    local fields = call('HGETALL', P .. 't:' .. id)
    if not fields[1] then return nil, 0 end
    local row = { id, fields, call('GET', P .. 'p:' .. id), call('GET', P .. 'r:' .. id) }
    local size = #row[3] + (row[4] and #row[4] or 0)
    for _, word in ipairs(fields) do size = size + #word end
    return row, size
  end

  local function header_row(flow)
    local v = call('HMGET', P .. 'wf:' .. flow, 'header', 'ts')
    return v[1] and { flow, v[1], v[2] }
  end

  -- Records and the headers of their workflows, until the answer is large enough.
  local function collector()
    local self, seen = { rows = {}, flows = {}, size = 0 }, {}
    function self.add(id)
      local row, size = record(id)
      if not row then return end
      self.rows[#self.rows + 1] = row
      self.size = self.size + size
      local flow = call('HGET', P .. 't:' .. id, 'wf')
      if flow and not seen[flow] then
        seen[flow] = true
        self.flows[#self.flows + 1] = header_row(flow) or nil
      end
    end
    function self.full() return self.size >= ROW_BYTES end
    return self
  end

  -- It is being cancelled, or its undo tasks are not all made yet.
  local function will_be_undone(flow)
    return call('HGET', P .. 'wf:' .. flow, 'ud') == 'stopping' or call('EXISTS', P .. 'undo:' .. flow) == 1
  end

  local function flow_is_open(flow)
    if will_be_undone(flow) then return true end
    local open = call('LLEN', P .. 'wt:' .. flow)
    for _, ended in ipairs(call('HMGET', P .. 'wn:' .. flow, 'COMPLETED', 'FAILED', 'CANCELLED')) do
      open = open - tonumber(ended or 0)
    end
    return open > 0
  end

  local function open_kid(id, budget)
    for _, kid in ipairs(call('LRANGE', P .. 'kids:' .. id, 0, -1)) do
      budget.left = budget.left - 1
      local state = call('HGET', P .. 't:' .. kid, 's')
      if state and not TERMINAL[state] then return kid end
    end
  end

  -- Why a finished task is still needed here; nil: it may go. `flows`: what this call knows of workflows.
  local function needed(id, flow, flows, budget)
    if flow and flows then
      if flows[flow] == nil then flows[flow] = flow_is_open(flow) end
      if flows[flow] then return 'its workflow ' .. flow .. ' has not ended' end
    elseif flow and will_be_undone(flow) then
      return 'its workflow ' .. flow .. ' is being undone'
    end
    local kid = open_kid(id, budget)
    return kid and 'task ' .. kid .. ', which has not ended, needs it'
  end

  -- The ends of tasks, oldest first, over the three indexes; `skips`: how many of each to leave out.
  local function ends_from(skips, limit)
    local all = {}
    for n, name in ipairs({ 'done', 'dead', 'gone' }) do
      local found = call('ZRANGE', P .. name, skips[n], skips[n] + limit - 1, 'WITHSCORES')
      for i = 1, #found, 2 do all[#all + 1] = { id = found[i], at = tonumber(found[i + 1]), n = n, i = i } end
    end
    table.sort(all, function(x, y)
      if x.at ~= y.at then return x.at < y.at end
      if x.n ~= y.n then return x.n < y.n end
      return x.i < y.i
    end)
    return all
  end

  local function finished_count()
    return call('ZCARD', P .. 'done') + call('ZCARD', P .. 'dead') + call('ZCARD', P .. 'gone')
  end

  -- args: how many to keep, the instant before which none is kept, limit, how many to leave out of done, dead, gone.
  -- Answers records, workflows, what to leave out next time, whether there may be more, the end of the oldest that is
  -- kept (or 0).
  function KEEPING.finished(args)
    local skips = { tonumber(args[4]), tonumber(args[5]), tonumber(args[6]) }
    local limit, total = tonumber(args[3]), finished_count()
    local rank, out, flows = skips[1] + skips[2] + skips[3], collector(), {}
    local budget, more, kept = { left = LOOKUPS }, 0, 0
    for seen, one in ipairs(ends_from(skips, limit)) do
      if rank >= total - tonumber(args[1]) and one.at >= tonumber(args[2]) then
        kept = one.at
        break
      end
      if seen > limit or out.full() or budget.left <= 0 then
        more = 1
        break
      end
      budget.left = budget.left - 3
      local flow = call('HGET', P .. 't:' .. one.id, 'wf')
      if needed(one.id, flow, flows, budget) then
        skips[one.n] = skips[one.n] + 1
      else
        out.add(one.id)
      end
      rank = rank + 1
      if seen == limit then more = 1 end
    end
    return { out.rows, out.flows, skips, more, int(kept) }
  end

  -- A dependant that is kept must not run again as if this one had succeeded.
  local function leave_kids(t)
    if t.s == 'COMPLETED' then return end
    for _, kid in ipairs(call('LRANGE', P .. 'kids:' .. t.id, 0, -1)) do
      if call('EXISTS', P .. 't:' .. kid) == 1 then call('HSET', P .. 't:' .. kid, 'au', t.id) end
    end
  end

  -- A workflow counts all its tasks until the last of them has gone.
  local function leave_workflow(flow)
    if call('INCR', P .. 'wa:' .. flow) < call('LLEN', P .. 'wt:' .. flow) then return end
    remove_workflow(flow)
  end

  local function forget(t, budget)
    leave_kids(t)
    for need in string.gmatch(t.nd or '', '%S+') do
      budget.left = budget.left - 1
      call('LREM', P .. 'kids:' .. need, 1, t.id)
    end
    call('DEL', P .. 't:' .. t.id, P .. 'p:' .. t.id, P .. 'r:' .. t.id, P .. 'kids:' .. t.id, P .. 'waiters:' .. t.id)
    call('ZREM', P .. 'all', t.id)
    call('ZREM', P .. TERMINAL[t.s], t.id)
    call('HINCRBY', P .. 'n:' .. t.a, t.s, -1)
    if t.wf then leave_workflow(t.wf) end
  end

  -- args: whether its workflow may be open, then id and the instant of its end, as read.
  -- Answers how many pairs were looked at (the rest did not fit into this call), and the ids that are not here any more.
  -- One that has moved on, or is needed again, stays.
  function KEEPING.forget(args)
    local gone, budget, flows, seen = {}, { left = LOOKUPS }, nil, 0
    if args[1] ~= '1' then flows = {} end
    for i = 2, #args, 2 do
      if budget.left <= 0 then break end
      budget.left = budget.left - 10
      seen = seen + 1
      local t = load(args[i])
      if not t then
        gone[#gone + 1] = args[i] -- by the first try of this call
      elseif TERMINAL[t.s] and call('HGET', P .. 't:' .. t.id, 'fi') == args[i + 1]
        and not needed(t.id, t.wf, flows, budget) then
        forget(t, budget)
        gone[#gone + 1] = t.id
      end
    end
    return { seen, gone }
  end

  -- args: ids...; the FAILED ones among them with what was cancelled because of them, and why one must stay
  function KEEPING.dropped(args)
    local out, seen, stack = collector(), {}, {}
    for _, id in ipairs(args) do
      local state = call('HGET', P .. 't:' .. id, 's')
      if not state then return not_found('task ' .. id .. ' does not exist') end
      if state ~= 'FAILED' then return conflict('task ' .. id .. ' is ' .. state .. ', no dead letter') end
      stack[#stack + 1] = id
    end
    while #stack > 0 do
      local id = table.remove(stack)
      if not seen[id] then
        seen[id] = true
        local why = needed(id, call('HGET', P .. 't:' .. id, 'wf'), nil, { left = LOOKUPS })
        if why then return conflict('task ' .. id .. ' stays: ' .. why) end
        out.add(id)
        for _, kid in ipairs(call('LRANGE', P .. 'kids:' .. id, 0, -1)) do
          local v = call('HMGET', P .. 't:' .. kid, 's', 'cb')
          if v[1] == 'CANCELLED' and v[2] == id then stack[#stack + 1] = kid end
        end
      end
    end
    return { out.rows, out.flows }
  end

  -- args: 't:' or 'wt:', ids of tasks, or of workflows; those that are not here
  function KEEPING.missing(args)
    local out = {}
    for i = 2, #args do
      if call('EXISTS', P .. args[1] .. args[i]) == 0 then out[#out + 1] = args[i] end
    end
    return out
  end

  -- args: sequence number after which to go on, limit; every task in the order of submission, with its number
  function KEEPING.records(args)
    local out, last = collector(), args[1]
    local found = call('ZRANGEBYSCORE', P .. 'all', '(' .. args[1], '+inf', 'WITHSCORES', 'LIMIT', 0, args[2])
    for i = 1, #found, 2 do
      if out.full() then break end
      out.add(found[i])
      last = int(found[i + 1])
    end
    return { out.rows, out.flows, last, found[1] and 1 or 0 }
  end

  -- args: index, from this instant on, how many to leave out, limit; what statistics count
  function KEEPING.history(args)
    local out = {}
    local found = call('ZRANGEBYSCORE', P .. args[1], args[2], '+inf', 'WITHSCORES', 'LIMIT', args[3], args[4])
    for i = 1, #found, 2 do
      local row = call('HMGET', P .. 't:' .. found[i], 's', 'a', 'ts', 'rd', 'st', 'fi', 'at', 'ex', 'ds', 'er')
      row[11], row[12] = found[i], found[i + 1]
      out[#out + 1] = row
    end
    return out
  end
end
