-- One exchange between a worker and the shared budget: the worker reports 429s and gets a few scheduled send times.
--
-- KEYS[1]  list: the latest send times granted to any worker, in microseconds of this server's clock, oldest first.
--          Some lie in the future: granting slightly ahead lets one exchange serve several requests.
-- KEYS[2]  hash: the day and its count, the pause, and the run ID of this server.
-- ARGV[1]  a LeaseRequest of messages.py as JSON, with times in seconds. Here all times are microseconds.
-- Returns  {a Lease of messages.py as JSON, offset, offset, ...}: the send times as offsets from `now`.

local SECOND = 1000000
local DAY = 86400 * SECOND
local MAX_AHEAD = 5 * SECOND -- later send times mean that the server's clock was set back
local EXPIRE_SECONDS = 2 * 86400

local function microseconds(seconds)
    return math.floor(seconds * SECOND + 0.5)
end
local function format(value)
    return string.format('%.0f', value)
end

local request = cjson.decode(ARGV[1])
local feedback = request.feedback ~= cjson.null and request.feedback or nil
local window, horizon = microseconds(request.window), microseconds(request.horizon)
local latency, spacing = microseconds(request.latency), microseconds(request.spacing)
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * SECOND + tonumber(clock[2])

-- The run ID changes with a restart or a fail-over, which may have restored an older state.
local run_id, info = '', redis.pcall('INFO', 'server')
if type(info) == 'string' then
    run_id = info:match('run_id:(%w+)') or ''
    local version = info:match('redis_version:(%d+)')
    if version and tonumber(version) < request.oldest_version then
        return redis.error_reply('OLDVERSION version ' .. version .. ' is older than ' .. request.oldest_version)
    end
end

local state, flat = {}, redis.call('HGETALL', KEYS[2])
for i = 1, #flat, 2 do
    state[flat[i]] = flat[i + 1]
end
local function number(field)
    return tonumber(state[field] or 0)
end

local log = redis.call('LRANGE', KEYS[1], 0, -1)
for i = 1, #log do
    log[i] = tonumber(log[i])
end
-- Either key may be evicted without the other.
local rewrite, was_empty = false, #log == 0 or state.run_id ~= run_id

-- Permits in a window: fewer after a 429, then one more after each `raise_wait`, as in margin.py.
local permits = request.max_permits
if number('lowest') > 0 then
    local raises = math.max(0, math.floor((now - number('quiet_since')) / number('raise_wait')))
    permits = math.min(permits, number('lowest') + raises)
end

-- The day, by this server's clock. The workers' own count survives a flush of this server.
local today = math.floor(now / DAY)
local used = number('used')
if today > number('day') then
    state.day, used = today, 0
end
if request.day == number('day') then
    used = math.max(used, request.used)
end
used = used + request.unreported

-- If the log may be incomplete, assume that the last window was full up to the latest time that any worker may have
-- been granted. So nothing is granted for one window.
local last = log[#log] or 0
if was_empty or last > now + MAX_AHEAD or request.uncertain then
    if last <= now + horizon + latency or last > now + MAX_AHEAD then
        last = now + horizon + latency + microseconds(request.fallback_grace)
    end
    log, rewrite = {}, true
    for i = 1, request.max_permits do
        log[i] = last
    end
end
state.run_id = run_id

-- Feedback. A pause that began after the request was sent covers it already.
local paused = number('paused') == 1
if feedback and microseconds(feedback.permit) > number('pause_began') then
    if feedback.kind == 'throttled' then
        if not paused then
            state.first_429_at = format(now)
        end
        paused = true
        state.pause_began = format(now)
        state.pause_until = format(math.max(number('pause_until'), now + microseconds(feedback.delay)))
        state.probe_until, state.failed_probes = '0', tostring(feedback.failed_probes)
        state.suspected_day = feedback.suspected and state.day or '-1'
        state.requested_wait = format(microseconds(feedback.requested_wait))
        permits = math.min(permits, feedback.recovery.lowest)
        state.lowest, state.quiet_since = permits, format(now + microseconds(feedback.recovery.since))
        state.raise_wait = format(microseconds(feedback.recovery.wait))
    elseif paused then
        -- Resume without a burst: act as if the last window had been used evenly.
        paused = false
        local even = {}
        for i = 1, request.max_permits do
            local slot = now - window + i * window / request.max_permits
            even[i] = math.max(slot, log[#log - request.max_permits + i] or 0)
        end
        log, rewrite = even, true
    end
end
local suspected_day = tonumber(state.suspected_day or -1)
if paused and suspected_day >= 0 and suspected_day ~= number('day') then
    suspected_day = -1
    state.suspected_day, state.pause_until, state.failed_probes = '-1', format(now), '0'
end

-- How many permits may be granted.
local wanted, wait, is_probe = math.min(request.wanted, request.per_day - used), 0, false
if paused then
    if now < number('pause_until') then
        wanted, wait = 0, number('pause_until') - now
    elseif now < number('probe_until') then
        wanted, wait = 0, math.min(number('probe_until') - now, window / 4)
    else
        wanted, is_probe = math.min(wanted, 1), true
    end
end

-- Schedule: at most `permits` in any window, and evenly spaced once half of a window is used.
local granted, interval = {}, window / permits
local half, first, kept = math.ceil(permits / 2), 1, rewrite and 0 or #log
local function earliest()
    local size = #log
    local at = math.max(now + latency, log[size], (log[size - permits + 1] or 0) + window)
    if (log[size - half + 1] or 0) + window > at then
        while log[first] and log[first] + window <= at do
            first = first + 1
        end
        local free = permits - (size - first + 1)
        local spread = ((log[first] or at) + window - at) / math.max(1, free)
        -- Slightly faster than even after missed send times, but not so fast that requests pile up.
        at = math.max(at, log[size] + math.max(spread, interval * 0.9))
    end
    return math.ceil(at)
end
while #granted < wanted do
    local at = earliest()
    if at > now + latency + horizon then
        break
    end
    log[#log + 1] = at
    granted[#granted + 1] = at - now
end
local next_free = math.max(0, earliest() - now)
if not paused and #granted < wanted then
    -- A worker that wants more gets a time to come back. These times form a queue, which keeps the number of exchanges
    -- low however many workers there are, and serves all of them.
    local turn = math.min(math.max(number('last_turn'), now) + spacing, now + microseconds(request.max_turn_wait))
    state.last_turn = format(turn)
    wait = math.max(turn - now, next_free - horizon - latency)
elseif is_probe and #granted == 0 then
    wait = next_free - horizon - latency
end
if #granted < request.wanted then
    wait = math.max(wait, 1000) -- a worker would ask again and again otherwise
end
is_probe = is_probe and #granted == 1
if is_probe then
    state.probe_until = format(now + granted[1] + microseconds(request.probe_timeout))
end
used = used + #granted

-- Write back.
if rewrite then
    redis.call('DEL', KEYS[1])
end
for i = kept + 1, #log do
    redis.call('RPUSH', KEYS[1], format(log[i]))
end
redis.call('LTRIM', KEYS[1], -request.max_permits, -1)
state.used, state.paused = format(math.max(0, used)), paused and 1 or 0
for field, value in pairs(state) do
    redis.call('HSET', KEYS[2], field, value)
end
redis.call('EXPIRE', KEYS[1], EXPIRE_SECONDS)
redis.call('EXPIRE', KEYS[2], EXPIRE_SECONDS)

local used_in_window = 0
for i = #log, 1, -1 do
    if log[i] <= now - window then
        break
    end
    used_in_window = used_in_window + (log[i] <= now and 1 or 0)
end
local lease = {
    now = format(now),
    wait = math.ceil(wait) / SECOND,
    next_free = next_free / SECOND,
    was_empty = was_empty,
    day = number('day'),
    used = used,
    recovery = number('lowest') > 0 and {
        lowest = number('lowest'),
        since = (number('quiet_since') - now) / SECOND,
        wait = number('raise_wait') / SECOND,
    } or {lowest = request.max_permits},
    used_in_window = used_in_window,
    paused = paused,
    is_probe = is_probe,
    pause_left = math.max(0, number('pause_until') - now) / SECOND,
    failed_probes = number('failed_probes'),
    since_first_429 = math.min((now - number('first_429_at')) / SECOND, 1e6),
    suspected = paused and suspected_day >= 0,
    requested_wait = number('requested_wait') / SECOND,
}
return {cjson.encode(lease), unpack(granted)}
