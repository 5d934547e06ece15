-- One conversation between a worker and the shared ledger: news of 429s in, a few scheduled send times out.
--
-- KEYS[1]  list: the last send times given to anybody, in microseconds of this server's clock, oldest first. Some lie
--          in the future: they are given a little ahead, so that one conversation serves several requests.
-- KEYS[2]  hash: the day and its count, the pause, this server's run.
-- ARGV[1]  the question as JSON, see LeaseRequest in shared_budget.py; all times in microseconds.
-- Answers  {facts as JSON, offset, offset, ...}: the send times, counted from the server's `now`.

local DAY = 86400 * 1000000
local AHEAD = 5 * 1000000 -- send times further ahead than this mean that the server's clock was set back
local KEEP = 2 * 86400

local ask = cjson.decode(ARGV[1])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

-- Which server is this? A restart or a fail-over may have brought back an older state.
local run, info = '', redis.pcall('INFO', 'server')
if type(info) == 'string' then
    run = info:match('run_id:(%w+)') or ''
    local version = info:match('redis_version:(%d+)')
    if version and tonumber(version) < ask.oldest then
        return redis.error_reply('OLDVERSION this server is version ' .. version .. ', and ' .. ask.oldest .. ' is needed')
    end
end

local facts, flat = {}, redis.call('HGETALL', KEYS[2])
for i = 1, #flat, 2 do
    facts[flat[i]] = flat[i + 1]
end
local function number(field)
    return tonumber(facts[field] or 0)
end
local function text(value)
    return string.format('%.0f', value)
end

local log = redis.call('LRANGE', KEYS[1], 0, -1)
for i = 1, #log do
    log[i] = tonumber(log[i])
end
local rewritten, before = false, #log

local permits = math.min(ask.permits, number('permits') > 0 and number('permits') or ask.permits)

-- The day, by this server's clock. What the workers remember outlives a flush.
local today = math.floor(now / DAY)
local used = number('used')
if today > number('day') then
    facts.day, used, facts.permits, permits = today, 0, nil, ask.permits
end
if ask.day == number('day') then
    used = math.max(used, ask.used)
end
used = used + ask.spent

-- Whenever the log may not tell the truth, take it that the last window was full up to the last moment that anybody
-- may have been given: nothing goes for one window.
local last = log[#log] or 0
if #log == 0 or facts.run ~= run or last > now + AHEAD or ask.doubt then
    local full = now + ask.horizon + ask.lead + ask.grace
    if not (last > now + ask.horizon + ask.lead and last <= now + AHEAD) then
        last = full
    end
    log, rewritten = {}, true
    for i = 1, ask.permits do
        log[i] = last
    end
end
facts.run = run

-- News: a pause that began after the request was sent has dealt with it already.
local paused = number('paused') == 1
if ask.news ~= '' and ask.permit > number('began') then
    if ask.news == 'throttled' then
        if not paused then
            facts.since = text(now)
        end
        paused = true
        facts.began = text(now)
        facts['until'] = text(math.max(number('until'), now + ask.delay))
        facts.probe, facts.failed = '0', tostring(ask.failed)
        facts.suspected = ask.suspected and facts.day or '-1'
        facts.asked = text(ask.asked)
        permits = math.min(permits, ask.lowered)
        facts.permits = permits
    elseif paused then
        -- Resume without a burst: act as if the last window had been used evenly.
        paused = false
        local even = {}
        for i = 1, ask.permits do
            local slot = now - ask.window + i * ask.window / ask.permits
            even[i] = math.max(slot, log[#log - ask.permits + i] or 0)
        end
        log, rewritten = even, true
    end
end
if paused and number('suspected') >= 0 and facts.suspected and number('suspected') ~= number('day') then
    facts.suspected, facts['until'], facts.failed = '-1', text(now), '0'
end

-- How many may go.
local want, wait, probe = math.min(ask.want, ask.per_day - used), 0, false
if paused then
    if now < number('until') then
        want, wait = 0, number('until') - now
    elseif now < number('probe') then
        want, wait = 0, math.min(number('probe') - now, ask.window / 4)
    else
        want, probe = math.min(want, 1), true
    end
end

-- Schedule: never more than `permits` in a window, and evenly once half a window is in use.
local granted, interval = {}, ask.window / permits
local half, first, kept = math.ceil(permits / 2), 1, #log
local function earliest()
    local size = #log
    local at = math.max(now + ask.lead, log[size], (log[size - permits + 1] or 0) + ask.window)
    if (log[size - half + 1] or 0) + ask.window > at then
        while log[first] and log[first] + ask.window <= at do
            first = first + 1
        end
        local free = permits - (size - first + 1)
        local spread = ((log[first] or at) + ask.window - at) / math.max(1, free)
        -- A little faster than even when slots were missed; never so fast that they pile up.
        at = math.max(at, log[size] + math.max(spread, interval * 0.9))
    end
    return math.ceil(at)
end
while #granted < want do
    local at = earliest()
    if at > now + ask.lead + ask.horizon then
        break
    end
    log[#log + 1] = at
    granted[#granted + 1] = at - now
end
local free = math.max(0, earliest() - now)
if not paused and #granted < want then
    -- Who wants more gets an appointment. A queue of them keeps the round trips few however many workers there are,
    -- and gives each of them its turn.
    local turn = math.min(math.max(number('turn'), now) + ask.apart, now + ask.longest)
    facts.turn = text(turn)
    wait = math.max(turn - now, free - ask.horizon - ask.lead)
end
if probe and #granted == 1 then
    facts.probe = text(now + granted[1] + ask.patience)
else
    probe = false
end
used = used + #granted

-- Write back.
if rewritten then
    redis.call('DEL', KEYS[1])
    kept = 0
end
for i = kept + 1, #log do
    redis.call('RPUSH', KEYS[1], text(log[i]))
end
redis.call('LTRIM', KEYS[1], -ask.permits, -1)
facts.used, facts.paused = text(math.max(0, used)), paused and 1 or 0
for field, value in pairs(facts) do
    redis.call('HSET', KEYS[2], field, value)
end
if not facts.permits then
    redis.call('HDEL', KEYS[2], 'permits')
end
redis.call('EXPIRE', KEYS[1], KEEP)
redis.call('EXPIRE', KEYS[2], KEEP)

local taken = 0
for i = #log, 1, -1 do
    if log[i] <= now - ask.window then
        break
    end
    taken = taken + (log[i] <= now and 1 or 0)
end
local answer = {
    now = text(now),
    wait = math.ceil(wait),
    free = free,
    day = number('day'),
    used = used,
    permits = permits,
    taken = taken,
    paused = paused,
    probe = probe,
    remaining = math.max(0, number('until') - now),
    failed = number('failed'),
    since = math.min(now - number('since'), 1e12),
    suspected = paused and facts.suspected ~= nil and number('suspected') >= 0,
    asked = number('asked'),
}
return {cjson.encode(answer), unpack(granted)}
