-- Places queens on a board, row by row, with backtracking.
-- sizes: test=5 idle=6
local n = tonumber(arg[1]) or 13
local columns, rising, falling = {}, {}, {}
for i = 1, n do
  columns[i] = true
end
for i = 1, 2 * n do
  rising[i], falling[i] = true, true
end
local solutions, visited = 0, 0
local function place(row)
  if row > n then
    solutions = solutions + 1
    return
  end
  for column = 1, n do
    local r, f = row + column, row - column + n
    if columns[column] and rising[r] and falling[f] then
      visited = visited + 1
      columns[column], rising[r], falling[f] = false, false, false
      place(row + 1)
      columns[column], rising[r], falling[f] = true, true, true
    end
  end
end
place(1)
print(solutions, visited)
