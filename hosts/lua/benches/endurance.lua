-- Runs all programs again and again in one process, a round for each line of standard input.
--
--   redmagic-lua benches/endurance.lua programs/*.lua
--
-- Every round loads each program anew, so that its functions and the traces in them become garbage, and runs it at its size
-- for tests. The answer to a line is another: resident memory and Lua's own memory in kilobytes, and a hash of what all
-- programs have printed since the first round. What a program prints otherwise than in its first run goes to standard error.
-- The command `endurance` writes the lines, and compares the answers of an interpreter without traces.
local programs = {}
for i = 1, #arg do
  local file = assert(io.open(arg[i]))
  local text = file:read("a")
  file:close()
  programs[i] = {
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
  local lines = {}
  local function write(...)
    for i = 1, select("#", ...) do lines[#lines + 1] = tostring((select(i, ...))) end
  end
  local function show(...)
    for i = 1, select("#", ...) do write((select(i, ...)), "\t") end
    write("\n")
  end
  local globals = setmetatable({
    arg = {[0] = program.name, program.size},
    print = show,
    io = setmetatable({write = write}, {__index = io}),
  }, {__index = _G})
  globals._G = globals
  assert(load(program.text, "@" .. program.name, "t", globals))()
  return table.concat(lines)
end

-- Says where a text differs from the first one.
local function complain(name, round, text, first)
  local expected = first:gmatch("[^\n]*")
  for line in text:gmatch("[^\n]*") do
    local other = expected()
    if line ~= other then
      io.stderr:write(string.format("%s, round %d: %q in place of %q\n", name, round, line, other or "nothing"))
      return
    end
  end
  io.stderr:write(string.format("%s, round %d: output is shorter\n", name, round))
end

local hash, round = 0, 0
for _ in io.lines() do
  round = round + 1
  for _, program in ipairs(programs) do
    local text = run(program)
    program.first = program.first or text
    if text ~= program.first then complain(program.name, round, text, program.first) end
    for i = 1, #text do hash = (hash * 31 + text:byte(i)) & 0xffffffffffff end
  end
  collectgarbage()
  collectgarbage()
  print(resident(), collectgarbage("count") // 1 | 0, hash)
  io.stdout:flush()
end
