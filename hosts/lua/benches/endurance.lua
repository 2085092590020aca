-- Runs all programs again and again in one process and says what that does to its memory.
--
--   redmagic-lua benches/endurance.lua SECONDS programs/*.lua
--
-- Every round loads each program anew, so that its functions and the traces in them become garbage, runs it at its size
-- for tests and compares a hash of what it prints with that of the first round. A line every ten rounds: seconds of CPU
-- time, rounds, resident memory in kilobytes, Lua's own memory in kilobytes. REDMAGIC_STATS gives the rest.
local seconds = tonumber(arg[1])
local programs = {}
for i = 2, #arg do
  local file = assert(io.open(arg[i]))
  local text = file:read("a")
  file:close()
  programs[#programs + 1] = {
    name = arg[i]:match("([^/]*)$"),
    text = text,
    size = text:match("\n%-%- sizes: test=(%d+)"),
  }
end

local function resident()
  local file = io.open("/proc/self/status")
  local text = file:read("a")
  file:close()
  return tonumber(text:match("VmRSS:%s*(%d+)"))
end

local function run(program)
  local hash = 0
  local function add(text)
    for i = 1, #text do hash = (hash * 31 + text:byte(i)) & 0xffffffffffff end
  end
  local function show(...)
    for i = 1, select("#", ...) do add(tostring((select(i, ...)))) end
    add("\n")
  end
  local function write(...)
    for i = 1, select("#", ...) do add(tostring((select(i, ...)))) end
  end
  local globals = setmetatable({
    arg = {[0] = program.name, program.size},
    print = show,
    io = setmetatable({write = write}, {__index = io}),
  }, {__index = _G})
  globals._G = globals
  assert(load(program.text, "@" .. program.name, "t", globals))()
  return hash
end

local wrong, rounds, first, most = 0, 0, nil, 0
local start = os.clock()
while os.clock() - start < seconds do
  for _, program in ipairs(programs) do
    local hash = run(program)
    program.hash = program.hash or hash
    if hash ~= program.hash then
      wrong = wrong + 1
      print("DIFFERENT", program.name, rounds)
    end
  end
  rounds = rounds + 1
  collectgarbage()
  collectgarbage()
  local memory = resident()
  if rounds == 10 then first = memory end
  most = math.max(most, memory)
  if rounds % 10 == 0 then
    print(string.format("%7.1f s %5d rounds %8d KB resident %8d KB of Lua", os.clock() - start, rounds, memory,
      collectgarbage("count") // 1))
    io.stdout:flush()
  end
end
print(string.format("%d rounds, %d programs, %d different; resident %s KB after ten rounds, %d KB at the end, %d KB at most",
  rounds, #programs, wrong, first or "-", resident(), most))
os.exit(wrong == 0)
