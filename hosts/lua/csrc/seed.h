/*
 * Included before everything else when Lua is compiled: the environment variable LUA_HASH_SEED may fix the seed of
 * Lua's string hashes. Where keys collide decides which instructions a table access executes, and so what a trace
 * looks like; with a fixed seed a test or a measurement can be repeated.
 */
#ifndef LUA_FRONT_SEED_H
#define LUA_FRONT_SEED_H

unsigned int lua_front_seed(void);
/* Lua 5.4 passes the state, Lua 5.5 nothing. */
#define luai_makeseed(...) lua_front_seed()

#endif
