/*
 * A Lua module with one function, `hooked(times, f)`: calls f, which may run forever, while a signal comes every millisecond
 * whose handler sets a hook. Each time the hook runs it takes itself away; the last of `times` raises an error, which
 * the function returns.
 */
#include <lauxlib.h>
#include <lua.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>

static lua_State *interrupted;
static volatile sig_atomic_t signals;
static long hooks, wanted;

static void hook(lua_State *L, lua_Debug *where) {
    (void)where;
    lua_sethook(L, NULL, 0, 0);
    if (++hooks == wanted) luaL_error(L, "enough");
}

static void tick(int signal) {
    (void)signal;
    signals = signals + 1;
    lua_sethook(interrupted, hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

static void every(long microseconds) {
    struct itimerval time = {{0, microseconds}, {0, microseconds}};
    setitimer(ITIMER_REAL, &time, NULL);
}

static int hooked(lua_State *L) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = tick;
    action.sa_flags = SA_RESTART;
    wanted = luaL_checkinteger(L, 1);
    hooks = signals = 0;
    interrupted = L;
    lua_settop(L, 2);
    sigaction(SIGALRM, &action, NULL);
    every(1000);
    lua_pcall(L, 0, 0, 0);
    every(0);
    lua_sethook(L, NULL, 0, 0);
    lua_pushinteger(L, hooks);
    lua_pushboolean(L, signals >= hooks);
    return 3; /* what was raised, how often the hook ran, whether signals account for that */
}

int luaopen_hook(lua_State *L) {
    lua_pushcfunction(L, hooked);
    return 1;
}
