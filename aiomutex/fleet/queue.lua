-- The queue of a fleet. Redis runs each command atomically.
--
-- KEYS: the stream of jobs that wait or run; the hash of unfinished jobs, each with "ENTRY STATUS RUN GROUP..."; the
-- hash of leases, group to job; the sorted set of runs, scored by the time at which each counts as dead; the prefix of
-- results.
-- ARGV: command, consumer group, consumer, claim timeout in milliseconds, then the command's own arguments.
local jobs, unfinished, leases, runs, results = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local workers, worker, timeout = ARGV[2], ARGV[3], tonumber(ARGV[4])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function find(job)
    local value = redis.call('HGET', unfinished, job or '')
    if not value then return nil end
    local entry, status, run, groups = string.match(value, '^(%S+) (%S+) (%S+) (.*)$')
    return {entry = entry, status = status, run = run, groups = groups}
end

local function store(job, found)
    redis.call('HSET', unfinished, job, table.concat({found.entry, found.status, found.run, found.groups}, ' '))
end

local function pending(entry, ...)
    return #redis.call('XPENDING', jobs, workers, entry, entry, 1, ...) == 1
end

local function delete(entry)
    redis.call('XACK', jobs, workers, entry)
    redis.call('XDEL', jobs, entry)
end

-- The leases end in the step that stores the result, so the next job of a group cannot start before.
local function finish(job, found, result)
    redis.call('SET', results .. ':' .. job, result, 'EX', 86400)
    redis.call('HDEL', unfinished, job)
    delete(found.entry)
    for group in string.gmatch(found.groups, '%S+') do
        if redis.call('HGET', leases, group) == job then redis.call('HDEL', leases, group) end
    end
end

local function is_alive(run)
    return now <= tonumber(redis.call('ZSCORE', runs, run) or 0)
end

-- A run that was dead stays dead, because others may have written its groups meanwhile.
local function beat(run)
    if redis.call('ZSCORE', runs, run) and not is_alive(run) then return false end
    redis.call('ZADD', runs, now + timeout, run)
    return true
end

local commands = {}

function commands.beat(run)
    beat(run)
end

function commands.leave(run)
    redis.call('ZREM', runs, run)
end

function commands.queue(job, run, data, groups)
    if find(job) or redis.call('EXISTS', results .. ':' .. job) == 1 then return 'queued' end
    if not beat(run) then return 'dead' end
    for group in string.gmatch(groups, '%S+') do
        if find(redis.call('HGET', leases, group)) then return 'taken' end
    end
    -- What Redis did before an error stays done. An entry or a lease without its job does no harm.
    local entry = redis.call('XADD', jobs, '*', 'id', job, 'data', data)
    for group in string.gmatch(groups, '%S+') do
        redis.call('HSET', leases, group, job)
    end
    store(job, {entry = entry, status = 'skipped', run = run, groups = groups})
    return 'queued'
end

function commands.accept(entry, job)
    local found = find(job)
    if not found or found.entry ~= entry then
        delete(entry)
        return 'foreign'
    end
    if not pending(entry, worker) then return 'lost' end
    if not is_alive(found.run) then
        finish(job, found, found.status)
        return 'dead'
    end
    redis.call('XCLAIM', jobs, workers, worker, 0, entry, 'JUSTID')
    return 'accepted'
end

function commands.finish(job, result)
    local found = find(job)
    if found and pending(found.entry, worker) then finish(job, found, result) end
end

local function requeue(job, found, fields)
    delete(found.entry)
    found.entry, found.status = redis.call('XADD', jobs, '*', unpack(fields)), 'unknown'
    store(job, found)
end

function commands.keep(...)
    local kept = {}
    for _, job in ipairs({...}) do
        local found = find(job)
        -- XCLAIM resets an entry's idle time; without the check it would take back a job that another worker has.
        local is_kept = found and is_alive(found.run) and pending(found.entry, worker)
        if is_kept then redis.call('XCLAIM', jobs, workers, worker, 0, found.entry, 'JUSTID') end
        table.insert(kept, is_kept and 1 or 0)
    end
    for _, idle in ipairs(redis.call('XAUTOCLAIM', jobs, workers, worker, timeout, '0')[2]) do
        local job = idle and idle[2][2]
        local found = find(job)
        if found and found.entry == idle[1] then
            if is_alive(found.run) then requeue(job, found, idle[2]) else finish(job, found, 'unknown') end
        elseif idle then
            delete(idle[1])
        end
    end
    for _, job in ipairs(redis.call('HKEYS', unfinished)) do
        local found = find(job)
        if not pending(found.entry) then
            if #redis.call('XRANGE', jobs, found.entry, found.entry) == 0 then
                finish(job, found, 'unknown')
            elseif not is_alive(found.run) then
                finish(job, found, found.status)
            end
        end
    end
    redis.call('ZREMRANGEBYSCORE', runs, '-inf', now - 86400000)
    return kept
end

return commands[ARGV[1]](unpack(ARGV, 5))
