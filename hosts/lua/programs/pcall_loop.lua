-- Errors caught in loops: of values, of the interpreter, in nested protected calls, with messages and handlers.
-- sizes: test=60 idle=2500
local n = tonumber(arg[1]) or 3200000
local caught, passed, depth = 0, 0, 0
local function risky(i)
  if i % 3 == 0 then
    error({ code = i })
  elseif i % 7 == 0 then
    error("plain " .. i % 10, 0)
  elseif i % 11 == 0 then
    return nil + i
  end
  return i
end
local messages = {}
for i = 1, n do
  local ok, result = pcall(risky, i)
  if ok then
    passed = passed + result
  elseif type(result) == "table" then
    caught = caught + result.code
  else
    messages[result] = (messages[result] or 0) + 1
  end
  local _, inner = xpcall(function()
    for k = 1, 5 do
      if k * i % 13 == 4 then
        error(k, 0)
      end
    end
    return 0
  end, function(e)
    return e * 10
  end)
  depth = depth + inner
end
local names = {}
for message, count in pairs(messages) do
  names[#names + 1] = message .. " x" .. count
end
table.sort(names)
print(passed, caught, depth)
print(table.concat(names, "\n"))
