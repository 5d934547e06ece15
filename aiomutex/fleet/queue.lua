-- The queue of a fleet. Redis runs each command atomically.
--
-- KEYS: the stream of jobs that wait or run; the hash of unfinished jobs, each as JSON; the hash of leases, group to
-- "RUN JOB", with the run's last job of the group; the sorted set of runs, scored by the time at which each counts as
-- dead; the prefix of results.
-- ARGV: command, consumer group, consumer, claim timeout in milliseconds, then the command's own arguments.
local jobs, unfinished, leases, runs, results = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local workers, worker, timeout = ARGV[2], ARGV[3], tonumber(ARGV[4])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function find(job)
    local value = redis.call('HGET', unfinished, job or '')
    return value and cjson.decode(value)
end

local function store(job, found)
    redis.call('HSET', unfinished, job, cjson.encode(found))
end

local function pending(entry, ...)
    return #redis.call('XPENDING', jobs, workers, entry, entry, 1, ...) == 1
end

local function delete(entry)
    redis.call('XACK', jobs, workers, entry)
    redis.call('XDEL', jobs, entry)
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

local function lease_of(group)
    return string.match(redis.call('HGET', leases, group) or '', '^(%S+) (%S*)$')
end

-- The lease of a dead run ends with its last job of the group, which a worker may still be doing.
local function take(group, run)
    local owner, job = lease_of(group)
    if owner == run then return not find(job) end
    if owner and (is_alive(owner) or find(job)) then return false end
    redis.call('HSET', leases, group, run .. ' ')
    return true
end

local function free(group, run)
    local owner, job = lease_of(group)
    if owner == run and not find(job) then redis.call('HDEL', leases, group) end
end

local function finish(job, found, result)
    -- The caller of a run that has left needs no result.
    if redis.call('ZSCORE', runs, found.run) then
        redis.call('HSET', results .. ':' .. found.run, job, result)
        redis.call('EXPIRE', results .. ':' .. found.run, 86400)
    end
    redis.call('HDEL', unfinished, job)
    delete(found.entry)
    if not is_alive(found.run) then
        for _, group in ipairs(found.groups) do free(group, found.run) end
    end
end

local commands = {}

function commands.leave(run)
    redis.call('ZREM', runs, run)
    redis.call('DEL', results .. ':' .. run)
    for _, group in ipairs(redis.call('HKEYS', leases)) do free(group, run) end
end

local function queue(job, run, data, groups)
    if find(job) or redis.call('HEXISTS', results .. ':' .. run, job) == 1 then return end
    for _, group in ipairs(groups) do
        if not take(group, run) then return end
    end
    -- What Redis did before an error stays done. An entry or a lease without its job does no harm.
    local entry = redis.call('XADD', jobs, '*', 'id', job, 'data', data)
    for _, group in ipairs(groups) do redis.call('HSET', leases, group, run .. ' ' .. job) end
    store(job, {entry = entry, status = 'skipped', run = run, groups = groups})
end

-- Everything a caller needs, in one command that it may repeat if the reply is lost. Returns the groups that it cannot
-- have now; the state of each job it waits for: empty while the job is unfinished, else its result; and whether the
-- run is alive.
function commands.exchange(run, given, job, data, ...)
    given = cjson.decode(given)
    if #given.received > 0 then redis.call('HDEL', results .. ':' .. run, unpack(given.received)) end
    local alive = beat(run)
    for _, group in ipairs(given.freed) do free(group, run) end
    local taken, states = {}, {}
    for _, group in ipairs(given.wanted) do
        if not (alive and take(group, run)) then table.insert(taken, group) end
    end
    if job and alive then queue(job, run, data, {...}) end
    for _, each in ipairs(given.waiting) do
        local state = redis.call('HGET', results .. ':' .. run, each)
        -- A job that was not queued, because its run is dead or has lost a lease, was not done either.
        table.insert(states, state or find(each) and '' or each == job and 'skipped' or 'Redis lost it')
    end
    return {taken, states, alive and 1 or 0}
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

-- The result is stored in the step that ends the job, so the next job of a group cannot start before. It says whether
-- the job was done again: the worker that died may have sent requests, too.
function commands.finish(job, result)
    local found = find(job)
    local again = found and found.status == 'unknown' and 'again ' or ''
    if found and pending(found.entry, worker) then finish(job, found, again .. result) end
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
    for _, run in ipairs(redis.call('ZRANGEBYSCORE', runs, '-inf', now - 86400000)) do commands.leave(run) end
    return kept
end

return commands[ARGV[1]](unpack(ARGV, 5))
