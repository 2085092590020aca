-- Reads and writes a global variable.
g = 0
for i = 1, 100 do
  g = g + i
end
print(g)
