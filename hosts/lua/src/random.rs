//! Random Lua programs: everything that the language has, in loops, without an end that is open.
//!
//! A program is made from a seed and is the same every time. It declares variables of every type, objects with all kinds of
//! metamethods and functions that guard the rest against errors of type (`N` makes a number of anything, `I` an integer, `D`
//! divides), then runs two loops of random statements, and after each iteration mixes what the variables hold into a hash,
//! which it prints at the end. Nothing in it depends on addresses or times, and all loops are short: what varies is how
//! statements meet. Some statements fail on purpose, inside a `pcall`.
//!
//! Example: `program(1)` begins with the prelude and goes on with loops such as
//! `for i=1,60 do a = (N(t.x) * N(7)); if i % 3 == 1 then goto c0 end … ::c0:: h = H(h, a) end`.

use crate::runs::mix;
use std::fmt::Write;

/// The program of a seed.
pub fn program(seed: u64) -> String {
    let mut generator = Generator { state: mix(seed), text: PRELUDE.to_owned(), labels: 0 };
    generator.functions();
    for _ in 0..2 {
        let count = *generator.pick(&[20, 60, 130]);
        generator.line(&format!("for i=1,{count} do"));
        generator.body(0, 7);
        generator.line("  h = H(h, a); h = H(h, b); h = H(h, t.x); h = H(h, up); h = H(h, obj.val); h = H(h, c)");
        generator.line("end");
    }
    generator
        .line("collectgarbage() print(h, gone, N(a) == N(a) and a, b, c, d, e, up, s, t.x, t[1], t[2], obj.val, g)");
    generator.text
}

/// Variables, functions and objects that all programs have.
const PRELUDE: &str = r#"local a,b,c,d,e = 1,2.5,3,0,7
local i, h, up, s, gone = 1, 0, 5, "x", 0
g = 3
local function N(x) if type(x)=="number" then return x end if type(x)=="string" then return #x end return x and 1 or 0 end
local function I(x) x = N(x); if math.type(x)=="integer" then return x end
  if x ~= x or x > 1e15 or x < -1e15 then return 1 end return math.floor(x) end
local function D(x,y,f) x,y = N(x),N(y); if y == 0 then return 0 end if f then return x//y else return x%y end end
local function H(h,x) x = N(x); if x ~= x then x = 7 end
  if math.type(x)=="float" then if x > 1e15 or x < -1e15 then x = x > 0 and 11 or 13 else x = math.floor(x*16) end end
  return (h * 31 + x) & 0xffffffffffff end
local function S(x) return (tostring(x):sub(1, 12)) end
local function sel(...) local n = 0; for _, x in ipairs({...}) do n = N(n) + N(x) end return n end
local function v(...) return select(2, ...) end
local function va(n, ...) if n <= 0 then return ... end return va(n - 1, n, ...) end
local function down(n, x) if n <= 0 then return N(x) end return N(down(n - 1, x)) + n end
local function tail(n, x) if n <= 0 then return x end return tail(n - 1, N(x) + n) end
local t = {1,2,3,4,5,6,7,8,x=1,y=2.5,z=true}
local mt = setmetatable({}, {__index=function(_,k) return N(k)+1 end, __newindex=function(q,k,x) rawset(q,k,N(x)) end})
local obj = setmetatable({val=1}, {__index={m=function(self,x,y) self.val = N(x) - N(self.val); return N(self.val) + N(y) end}})
local V = {}
V.__index = V
local function vec(x) return setmetatable({x=N(x)}, V) end
V.__add = function(p,q) return vec((type(p)=="table" and p.x or N(p)) + (type(q)=="table" and q.x or N(q))) end
V.__eq = function(p,q) return I(p.x) == I(q.x) end
V.__lt = function(p,q) return p.x < q.x end
V.__le = function(p,q) return p.x <= q.x end
V.__concat = function(p,q) return S(type(p)=="table" and I(p.x) or p) .. "." .. S(type(q)=="table" and I(q.x) or q) end
V.__len = function(p) return I(p.x) % 5 end
V.__unm = function(p) return vec(-p.x) end
V.__call = function(p,y) return p.x + N(y) end
V.__close = function(p) up = N(up) + 1; h = H(h, p.x) end
local G = {__gc=function(o) gone = gone + o[1] end}
local clo = function() return 1 end
local list = {}
local f1, f2
"#;

struct Generator {
    state: u64,
    text: String,
    labels: u32,
}

impl Generator {
    fn next(&mut self, below: u64) -> u64 {
        self.state = self.state.wrapping_add(1);
        mix(self.state) % below
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next(100) < percent
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.next(of.len() as u64) as usize]
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn name(&mut self) -> &'static str {
        ["a", "b", "c", "d", "e"][self.next(5) as usize]
    }

    fn number(&mut self) -> String {
        let (small, bits) = (self.next(56) as i64 - 5, *self.pick(&[4, 16, 31, 62]));
        let wide = self.next(1 << bits);
        let fraction = self.next(10);
        match self.next(9) {
            0..=2 => small.to_string(),
            3 => format!("{fraction}.5"),
            4 => format!("{wide:#x}"),
            5 => format!("1e{}", small % 7),
            6 => "math.maxinteger".into(),
            7 => "math.mininteger".into(),
            _ => (*self.pick(&["2^53", "0.1", "-0.0", "1/0", "0x7fffffff"])).into(),
        }
    }

    fn expression(&mut self, depth: u32) -> String {
        if depth > 2 || self.chance(35) {
            return match self.next(4) {
                0 | 1 => self.name().into(),
                2 => self.number(),
                _ => (*self.pick(&["i", "t[1]", "t[2]", "t[i%8+1]", "t.x", "t.y", "up", "g"])).into(),
            };
        }
        let (x, y) = (self.expression(depth + 1), self.expression(depth + 1));
        match self.next(20) {
            0..=4 => format!("(N({x}) {} N({y}))", self.pick(&["+", "-", "*"])),
            5 => format!("(N({x}) / N({y}))"),
            6 => format!("D({x},{y},{})", self.pick(&["true", "false"])),
            7 | 8 => format!("(I({x}) {} I({y}))", self.pick(&["&", "|", "~", "<<", ">>"])),
            9 => format!("{}({x},{y})", self.pick(&["f1", "f2", "obj:m", "sel"])),
            10 => format!("math.{}(N({x}),N({y}))", self.pick(&["max", "min"])),
            11 | 12 => format!("({} and {x} or {y})", self.condition(depth + 1)),
            13 => {
                (*self.pick(&["#s", "#t", "(#(s..i))", "clo()", "s:byte(1)", "#list", "select('#', va(i%7))"])).into()
            }
            14 => format!("N(v({x},{y}))"),
            15 => format!("(vec({x}) + vec({y})).x"),
            16 => format!("#(vec({x}) .. {})", self.pick(&["s", "7", "vec(i)"])),
            17 => format!("{}(i % {}, {x})", self.pick(&["down", "tail"]), self.next(30) + 1),
            18 => format!("vec({x})({y})"),
            _ => format!("{}(I({x}))", self.pick(&["-", "~", "math.abs", "I", "mt.__none or N"])),
        }
    }

    fn condition(&mut self, depth: u32) -> String {
        let (x, y) = (self.expression(depth + 1), self.expression(depth + 1));
        let comparison = *self.pick(&["<", "<=", ">", ">=", "==", "~="]);
        match self.next(9) {
            0..=2 => format!("N({x}) {comparison} N({y})"),
            3 | 4 => format!("i % {} == {}", self.next(6) + 2, self.next(2)),
            5 => format!("not (N({x}) {comparison} N({y}))"),
            6 => format!("vec({x}) {comparison} vec({y})"),
            7 => format!("s {comparison} S({x})"),
            _ => (*self.pick(&["t.z", "b", "s == 'x'", "clo", "math.type(a) == 'integer'", "#s > 3"])).into(),
        }
    }

    /// Up to `most` statements, and a label behind them that `goto` may have asked for.
    fn body(&mut self, depth: u32, most: u64) {
        let label = self.labels;
        self.labels += 1;
        let mut wanted = false;
        self.line("do");
        for _ in 0..=self.next(most) {
            if self.chance(5) {
                let condition = self.condition(0);
                self.line(&format!("if {condition} then goto c{label} end"));
                wanted = true;
            } else {
                self.statement(depth);
            }
        }
        self.line("end");
        if wanted {
            self.line(&format!("::c{label}::"));
        }
    }

    fn statement(&mut self, depth: u32) {
        match self.next(100) {
            0..=29 => {
                let (name, value) = (self.name(), self.expression(0));
                self.line(&format!("{name} = {value}"));
            }
            30..=39 => {
                let place = *self.pick(&["t[i%8+1]", "t.x", "t.y", "up", "g", "t[3]", "obj.val", "mt[i]", "mt.k"]);
                let value = self.expression(0);
                self.line(&format!("{place} = {value}"));
            }
            40..=50 if depth < 3 => {
                let condition = self.condition(0);
                self.line(&format!("if {condition} then"));
                self.body(depth + 1, 2);
                if self.chance(50) {
                    self.line("else");
                    self.body(depth + 1, 2);
                }
                self.line("end");
            }
            51..=62 if depth < 3 => self.inner_loop(depth),
            63..=80 => self.library(),
            _ => self.control(depth),
        }
    }

    fn inner_loop(&mut self, depth: u32) {
        let count = *self.pick(&[2, 5, 9, 17]);
        let (head, tail) = match self.next(8) {
            0..=2 => (format!("for i=1,{count} do"), "end".to_owned()),
            3 => (format!("for i={count},1,-1 do"), "end".into()),
            4 => (format!("for q=0.5,{count},1.25 do local i = I(q)"), "end".into()),
            5 => ("for k,x in ipairs(t) do local i = k".into(), "end".into()),
            6 => (
                format!("local j{depth} = 0; while j{depth} < {count} do j{depth} = j{depth} + 1; local i = j{depth}"),
                "end".into(),
            ),
            _ => {
                let head = format!("local q{depth} = {count}; repeat q{depth} = q{depth} - 1; local i = q{depth}");
                (head, format!("until q{depth} <= 0"))
            }
        };
        self.line("do");
        self.line(&head);
        if self.chance(25) {
            let condition = self.condition(0);
            self.line(&format!("if {condition} then break end"));
        }
        self.body(depth + 1, 3);
        self.line(&format!("{tail} end"));
    }

    /// Calls of the libraries, which call back.
    fn library(&mut self) {
        let (x, y, name) = (self.expression(0), self.expression(0), self.name());
        let line = match self.next(16) {
            0 => format!("s = S({x})"),
            1 => "s = s:sub(1,5) .. 'y'".into(),
            2 => format!("s = string.format('%d|%5.2f|%s', I({x}), N({y}), s:sub(1,3))"),
            3 => format!("s = s:sub(1,8):upper() .. S(I({x}))"),
            4 => format!("{name} = #(s .. ('ab'):rep(I({x}) % 9))"),
            5 => format!(
                "s = (s:sub(1,9):gsub('%w', function(w) {name} = N({x}); return w .. (I({y}) % 3) end)):sub(1,12)"
            ),
            6 => format!("for w in (s .. ' b c'):gmatch('%a') do {name} = N({name}) + #w end"),
            7 => format!(
                "local r = {{5,3,I({x}) % 11,1,I({y}) % 7}} table.sort(r, function(p,q) up = N(up) + 1; return p < q end) h = H(h, r[2])"
            ),
            8 => format!("list[#list + 1] = N({x}); if #list > 9 then {name} = table.remove(list, 1) end"),
            9 => {
                format!("table.insert(list, 1, N({y})); {name} = #table.concat({{#list, I({x})}}, ','); list[12] = nil")
            }
            10 => format!("t = {{{x}, {y}, 3, N({x}), x={y}, y=i, z={}}}", self.pick(&["true", "false", "nil"])),
            11 => format!(
                "{name} = N(load('local n = ... for k = 1, 9 do n = n + k * {} end return n')(N({x})))",
                self.next(9)
            ),
            12 => format!("setmetatable({{I({x}) & 7}}, G)"),
            13 => format!("{name} = select('#', table.unpack({{1,2,N({x})}})) + math.ult(I({x}), I({y})) and 1 or 0")
                .replace("math.ult", "(math.ult")
                .replace(" and 1 or 0", " and 1 or 0)"),
            14 => format!("{name} = N(tonumber(S({x}))) + N(math.tointeger({y}))"),
            _ => format!("{name} = N(string.pack('<i8', I({x})):byte(1)) + utf8.len('aé' .. I({y}) % 10)"),
        };
        self.line(&format!("do {line} end"));
    }

    /// Closures, errors, coroutines, hooks, variables that are closed.
    fn control(&mut self, depth: u32) {
        let (x, y, name, condition) = (self.expression(0), self.expression(0), self.name(), self.condition(0));
        let line = match self.next(14) {
            0 => format!("local ok, m = pcall(function() {name} = {x}; if {condition} then error('e' .. i) end end); if not ok then c = #tostring(m) end"),
            1 => format!("local ok, m = pcall(function() local z = {x}; if {condition} then error({{z}}) end return z end); {name} = ok and m or m[1]"),
            2 => format!("local ok, m = pcall(function() return {condition} and nil + {name} or t.none.none end); {name} = #tostring(m)"),
            3 => format!("clo = (function(z) return function() z = N(z) + 1; up = z; return z end end)({x})"),
            4 => format!("{name} = select(2, xpcall(function() if {condition} then error({x}) end return {y} end, function(m) return N(tonumber(m)) end))"),
            5 => "local co = coroutine.wrap(function(n) for k=1,3 do n = N(n) + N(coroutine.yield(n)) end return n end); a = N(co(i)) + N(co(1))".into(),
            6 => format!("local co = coroutine.create(function(n) for k=1,I(n)%4 do coroutine.yield({x}) end error('end') end) local n = 0 repeat local ok, r = coroutine.resume(co, i); n = N(n) + N(ok and r) until not ok {name} = n"),
            7 => format!("local p <close> = vec({x}); if {condition} then {name} = p.x end"),
            8 => format!("pcall(function() local p <close> = vec(i); if {condition} then error(p) end {name} = {y} end)"),
            // Instructions of a finaliser count, and when the collector runs one depends on where things lie in memory
            // (Lua's cache of strings goes by their addresses): it waits until the count is known.
            9 => format!("local n = 0; collectgarbage('stop') debug.sethook(function() n = n + 1 end, '', {}); for k=1,9 do {name} = N({x}) end debug.sethook() collectgarbage('restart') h = H(h, n)", self.next(9) + 1),
            10 => "a, b = b, a".into(),
            11 => format!("local fs = {{}} for k=1,4 do local z = k fs[k] = function() z = z + 1 return z + N({name}) end end {name} = fs[1]() + fs[I(i)%4+1]()"),
            12 => format!("{name} = N(select('#', {x}, {y})) + N(sel({x},{y},va(2)))"),
            _ => format!("local k = {{n=0}} while true do k.n = k.n + 1 if k.n > {} or {condition} then break end end {name} = k.n", self.next(20)),
        };
        self.line(&format!("do {line} end"));
        if depth < 2 && self.chance(10) {
            self.line("do local i = i % 3");
            self.body(depth + 1, 2);
            self.line("end");
        }
    }

    fn functions(&mut self) {
        let mut text = String::from("f1 = function(a,b) local c,d,e = b,1,2; local i = 3\n");
        for _ in 0..2 {
            let (to, left, right) =
                (*self.pick(&["a", "b", "c"]), *self.pick(&["a", "b", "d"]), *self.pick(&["b", "c", "e"]));
            // A string cannot be written to without a result.
            let _ = writeln!(text, "{to} = (N({left}) {} N({right}))", self.pick(&["+", "-", "*"]));
        }
        let (count, sign) = (self.next(6) + 1, *self.pick(&["+", "-"]));
        let _ = writeln!(
            text,
            "return c end\nf2 = function(x,y) local n = 0; for k=1,{count} do n = N(n) + N(x) {sign} k; \
             if n > 1e9 then n = N(y) end end return n end"
        );
        self.text.push_str(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::program;

    #[test]
    fn a_seed_is_a_program() {
        assert_eq!(program(7), program(7));
        assert_ne!(program(7), program(8));
    }
}
