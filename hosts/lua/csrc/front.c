/*
 * The stand-alone interpreter's front end: reads the command line and the environment, runs scripts and standard
 * input, and answers lines typed at a terminal. It behaves as the `lua` program of the same version does, 5.4 or 5.5 (built
 * without a line editor), so that scripts, makefiles and the official test suite can use one in place of the other.
 *
 * One function is visible, lua_front_main(). Everything runs inside one protected call (protected_main), because
 * nearly every function of Lua's API may raise an error, for want of memory if for nothing else.
 *
 * Example: `redmagic-lua -W -e "n = 3" script.lua a b` parses to flags {HAS_E_TEXT}, script index 4; then `-W` and `-e`
 * are carried out in their order, and script.lua runs with arg[0] = "script.lua", arg[1] = "a", arg[-1] = "n = 3".
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lauxlib.h"
#include "lua.h"
#include "lualib.h"

/* What the options ask for, beside those that are carried out in their order (-e, -l, -W). */
enum {
    INTERACTIVE = 1,  /* -i */
    SHOW_VERSION = 2, /* -v, -i */
    HAS_TEXT = 4,     /* -e */
    NO_ENVIRONMENT = 8, /* -E */
    MALFORMED = 16
};

/* The state that the interrupt handler stops; set while a chunk runs. */
static lua_State *running;

/* Prefix of error messages; NULL while lines are read from a terminal. */
static const char *program = "lua";

unsigned int lua_front_seed(void) {
    const char *fixed = getenv("LUA_HASH_SEED");
    if (fixed != NULL) return (unsigned int)strtoul(fixed, NULL, 10);
    /* As in Lua itself: the time, and addresses of the stack and of the program, which the system chooses. */
    return (unsigned int)time(NULL) * 2654435761u ^ (unsigned int)((size_t)&fixed >> 4) * 40503u ^
           (unsigned int)((size_t)&lua_newstate >> 12);
}

/* ---- Messages ---- */

static void complain(const char *prefix, const char *message) {
    fflush(stdout);
    if (prefix != NULL) fprintf(stderr, "%s: ", prefix);
    fprintf(stderr, "%s\n", message);
    fflush(stderr);
}

static void show_version(void) {
    puts(LUA_COPYRIGHT);
    fflush(stdout);
}

static void show_usage(const char *option) {
    fflush(stdout);
    if (option[1] == 'e' || option[1] == 'l') {
        fprintf(stderr, "%s: '%s' needs argument\n", program, option);
    } else {
        fprintf(stderr, "%s: unrecognized option '%s'\n", program, option);
    }
    fprintf(stderr,
            /* The same text as that of `lua`. */
            "usage: %s [options] [script [args]]\n"
            "Available options are:\n"
            "  -e stat   execute string 'stat'\n"
            "  -i        enter interactive mode after executing 'script'\n"
            "  -l mod    require library 'mod' into global 'mod'\n"
            "  -l g=mod  require library 'mod' into global 'g'\n"
            "  -v        show version information\n"
            "  -E        ignore environment variables\n"
            "  -W        turn warnings on\n"
            "  --        stop handling options\n"
            "  -         stop handling options and execute stdin\n",
            program);
    fflush(stderr);
}

/* Prints and pops the error on top of the stack unless `status` says that there is none. Returns `status`. */
static int report(lua_State *L, int status) {
    if (status != LUA_OK) {
        const char *message = lua_tostring(L, -1);
        complain(program, message != NULL ? message : "(error message not a string)");
        lua_pop(L, 1);
    }
    return status;
}

/* ---- Protected calls and interrupts ---- */

static void raise_interrupt(lua_State *L, lua_Debug *where) {
    (void)where;
    lua_sethook(L, NULL, 0, 0);
    luaL_error(L, "interrupted!");
}

static void on_signal(int signal, void (*handler)(int)) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    sigemptyset(&action.sa_mask);
    sigaction(signal, &action, NULL);
}

/* An error cannot be raised inside a signal handler, but a hook may be set there: the chunk stops at its next
 * instruction. A second interrupt ends the process. */
static void on_interrupt(int signal) {
    on_signal(signal, SIG_DFL);
    lua_sethook(running, raise_interrupt, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

/* Turns an error value into a message with a traceback. A value that converts itself to a string is left at that. */
static int add_traceback(lua_State *L) {
    const char *message = lua_tostring(L, 1);
    if (message == NULL) {
        if (luaL_callmeta(L, 1, "__tostring") && lua_type(L, -1) == LUA_TSTRING) return 1;
        message = lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
    }
    luaL_traceback(L, L, message, 1);
    return 1;
}

/* Calls the function below its `arguments` on the stack, with tracebacks and interruptible. */
static int call(lua_State *L, int arguments, int results) {
    int handler = lua_gettop(L) - arguments;
    int status;
    lua_pushcfunction(L, add_traceback);
    lua_insert(L, handler);
    running = L;
    on_signal(SIGINT, on_interrupt);
    status = lua_pcall(L, arguments, results, handler);
    on_signal(SIGINT, SIG_DFL);
    lua_remove(L, handler);
    return status;
}

/* ---- Chunks ---- */

/* Runs what luaL_load* left on the stack. */
static int run_loaded(lua_State *L, int status) {
    if (status == LUA_OK) status = call(L, 0, 0);
    return report(L, status);
}

static int run_file(lua_State *L, const char *name) { return run_loaded(L, luaL_loadfile(L, name)); }

static int run_text(lua_State *L, const char *text, const char *chunk) {
    return run_loaded(L, luaL_loadbuffer(L, text, strlen(text), chunk));
}

/* `-l spec`: "global=module", or "module", whose global has the same name up to a mark such as "-v2". */
static int run_library(lua_State *L, const char *spec) {
    const char *equals = strchr(spec, '=');
    const char *module = equals != NULL ? equals + 1 : spec;
    size_t length = equals != NULL ? (size_t)(equals - spec) : strcspn(spec, LUA_IGMARK);
    int status;
    lua_pushlstring(L, spec, length);
    lua_getglobal(L, "require");
    lua_pushstring(L, module);
    status = call(L, 1, 1);
    if (status == LUA_OK) {
        lua_setglobal(L, lua_tostring(L, -2));
    } else {
        report(L, status);
    }
    lua_pop(L, 1);
    return status;
}

/* ---- The command line ---- */

/* Reads the options. `*script` becomes the index of the script's name, 0 if there is none, or the index of the option
 * that is malformed. */
static int read_options(char **argv, int *script) {
    int flags = 0;
    int i;
    *script = 0;
    if (argv[0] == NULL) return flags;
    for (i = 1; argv[i] != NULL; i++) {
        const char *option = argv[i];
        const char *rest = option[0] == '-' && option[1] != '\0' ? option + 2 : "";
        *script = i;
        if (option[0] != '-' || option[1] == '\0') return flags;
        switch (option[1]) {
            case '-':
                if (*rest != '\0') return MALFORMED;
                *script = argv[i + 1] != NULL ? i + 1 : 0;
                return flags;
            case 'e':
            case 'l':
                if (option[1] == 'e') flags |= HAS_TEXT;
                if (*rest != '\0') break;
                i++;
                if (argv[i] == NULL || argv[i][0] == '-') return MALFORMED;
                break;
            case 'E':
            case 'W':
            case 'i':
            case 'v':
                if (*rest != '\0') return MALFORMED;
                if (option[1] == 'E') flags |= NO_ENVIRONMENT;
                if (option[1] == 'i') flags |= INTERACTIVE | SHOW_VERSION;
                if (option[1] == 'v') flags |= SHOW_VERSION;
                break;
            default:
                return MALFORMED;
        }
    }
    *script = 0;
    return flags;
}

/* Carries out -e, -l and -W among the options before index `end`. */
static int run_options(lua_State *L, char **argv, int end) {
    int i;
    /* A state of Lua 5.5 begins with warnings, which LUA_INIT still shows. */
    if (LUA_VERSION_NUM >= 505) lua_warning(L, "@off", 0);
    for (i = 1; i < end; i++) {
        char option = argv[i][1];
        if (option == 'W') {
            lua_warning(L, "@on", 0);
        } else if (option == 'e' || option == 'l') {
            const char *text = argv[i][2] != '\0' ? argv[i] + 2 : argv[++i];
            int status = option == 'e' ? run_text(L, text, "=(command line)") : run_library(L, text);
            if (status != LUA_OK) return 0;
        }
    }
    return 1;
}

/* The global `arg`: the script at 0, its arguments from 1, what stands before it at negative indices. */
static void set_arg(lua_State *L, char **argv, int argc, int script) {
    int i;
    lua_createtable(L, argc - script, script + 1);
    for (i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i - script);
    }
    lua_setglobal(L, "arg");
}

static int run_script(lua_State *L, char **argv, int script) {
    const char *name = argv[script];
    int status, count, i;
    if (strcmp(name, "-") == 0 && strcmp(argv[script - 1], "--") != 0) name = NULL;
    status = luaL_loadfile(L, name);
    if (status == LUA_OK) {
        if (lua_getglobal(L, "arg") != LUA_TTABLE) luaL_error(L, "'arg' is not a table");
        count = (int)luaL_len(L, -1);
        luaL_checkstack(L, count + 3, "too many arguments to script");
        for (i = 1; i <= count; i++) lua_rawgeti(L, -i, i);
        lua_remove(L, -count - 1);
        status = call(L, count, LUA_MULTRET);
    }
    return report(L, status);
}

/* LUA_INIT_5_4, or else LUA_INIT: a text, or a file's name after '@'. */
static int run_init(lua_State *L) {
    static const char *const names[] = {"=LUA_INIT" LUA_VERSUFFIX, "=LUA_INIT"};
    size_t i;
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        const char *text = getenv(names[i] + 1);
        if (text != NULL) return text[0] == '@' ? run_file(L, text + 1) : run_text(L, text, names[i]);
    }
    return LUA_OK;
}

/* ---- Lines from a terminal ---- */

/* Shows a prompt and pushes the next line without its end. Returns 0 at the end of the input. */
static int read_line(lua_State *L, int first) {
    luaL_Buffer line;
    char part[512];
    int any = 0;
    if (lua_getglobal(L, first ? "_PROMPT" : "_PROMPT2") == LUA_TNIL) {
        fputs(first ? "> " : ">> ", stdout);
    } else {
        fputs(luaL_tolstring(L, -1, NULL), stdout);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    fflush(stdout);
    luaL_buffinit(L, &line);
    while (fgets(part, sizeof part, stdin) != NULL) {
        size_t length = strlen(part);
        any = 1;
        if (length > 0 && part[length - 1] == '\n') {
            luaL_addlstring(&line, part, length - 1);
            break;
        }
        luaL_addlstring(&line, part, length);
    }
    luaL_pushresult(&line);
    if (!any) lua_pop(L, 1);
    return any;
}

static int load_text(lua_State *L, int index) {
    size_t length;
    const char *text = lua_tolstring(L, index, &length);
    return luaL_loadbuffer(L, text, length, "=stdin");
}

/* Is the error on top of the stack that of a text that only stops too early? */
static int is_incomplete(lua_State *L, int status) {
    static const char end[] = "<eof>";
    size_t length;
    const char *message;
    if (status != LUA_ERRSYNTAX) return 0;
    message = lua_tolstring(L, -1, &length);
    return length >= sizeof end - 1 && strcmp(message + length - (sizeof end - 1), end) == 0;
}

/* Lua 5.5 says so when a line declares locals, which are gone with it. */
static void warn_of_locals(const char *line) {
    line += strspn(line, " \t");
    if (LUA_VERSION_NUM >= 505 && strncmp(line, "local", 5) == 0 && strchr(" \t", line[5]) != NULL) {
        fputs("warning: locals do not survive across lines in interactive mode\n", stderr);
        fflush(stderr);
    }
}

/* Reads one chunk, over several lines if need be: as an expression if it is one; in Lua 5.4 "=x" is "return x". Leaves
 * the function or the error as the only value. Returns -1 at the end of the input. */
static int read_chunk(lua_State *L) {
    int status;
    lua_settop(L, 0);
    if (!read_line(L, 1)) return -1;
    if (LUA_VERSION_NUM < 505 && lua_tostring(L, 1)[0] == '=') {
        lua_pushfstring(L, "return %s", lua_tostring(L, 1) + 1);
        lua_replace(L, 1);
    }
    lua_pushfstring(L, "return %s;", lua_tostring(L, 1));
    status = load_text(L, 2);
    lua_remove(L, 2);
    if (status != LUA_OK) {
        lua_settop(L, 1);
        warn_of_locals(lua_tostring(L, 1));
        while (is_incomplete(L, status = load_text(L, 1))) {
            if (!read_line(L, 0)) break;
            lua_remove(L, 2);
            lua_pushliteral(L, "\n");
            lua_insert(L, 2);
            lua_concat(L, 3);
        }
    }
    lua_remove(L, 1);
    return status;
}

static void print_results(lua_State *L) {
    int count = lua_gettop(L);
    if (count == 0) return;
    luaL_checkstack(L, LUA_MINSTACK, "too many results to print");
    lua_getglobal(L, "print");
    lua_insert(L, 1);
    if (lua_pcall(L, count, 0, 0) != LUA_OK) {
        complain(program, lua_pushfstring(L, "error calling 'print' (%s)", lua_tostring(L, -1)));
    }
}

static void converse(lua_State *L) {
    const char *name = program;
    int status;
    program = NULL;
    while ((status = read_chunk(L)) != -1) {
        if (status == LUA_OK) status = call(L, 0, LUA_MULTRET);
        if (status == LUA_OK) {
            print_results(L);
        } else {
            report(L, status);
        }
    }
    lua_settop(L, 0);
    putchar('\n');
    fflush(stdout);
    program = name;
}

/* ---- The whole ---- */

/* Arguments: argc, argv. Result: whether all went well. */
static int protected_main(lua_State *L) {
    int argc = (int)lua_tointeger(L, 1);
    char **argv = lua_touserdata(L, 2);
    int script;
    int flags = read_options(argv, &script);
    luaL_checkversion(L);
    if (argv[0] != NULL && argv[0][0] != '\0') program = argv[0];
    if (flags & MALFORMED) {
        show_usage(argv[script]);
        return 0;
    }
    if (flags & SHOW_VERSION) show_version();
    if (flags & NO_ENVIRONMENT) {
        lua_pushboolean(L, 1);
        lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
    }
    luaL_openlibs(L);
    set_arg(L, argv, argc, script);
    lua_gc(L, LUA_GCRESTART);
    lua_gc(L, LUA_GCGEN, 0, 0);
    if (!(flags & NO_ENVIRONMENT) && run_init(L) != LUA_OK) return 0;
    if (!run_options(L, argv, script > 0 ? script : argc)) return 0;
    if (script > 0 && run_script(L, argv, script) != LUA_OK) return 0;
    if (flags & INTERACTIVE) {
        converse(L);
    } else if (script == 0 && !(flags & (HAS_TEXT | SHOW_VERSION))) {
        if (isatty(0)) {
            show_version();
            converse(L);
        } else {
            run_file(L, NULL);
        }
    }
    lua_pushboolean(L, 1);
    return 1;
}

int lua_front_main(int argc, char **argv) {
    int status, good;
    lua_State *L = luaL_newstate();
    if (L == NULL) {
        complain(argv[0], "cannot create state: not enough memory");
        return EXIT_FAILURE;
    }
    lua_gc(L, LUA_GCSTOP);
    lua_pushcfunction(L, protected_main);
    lua_pushinteger(L, argc);
    lua_pushlightuserdata(L, argv);
    status = lua_pcall(L, 2, 1, 0);
    good = lua_toboolean(L, -1);
    report(L, status);
    lua_close(L);
    return good && status == LUA_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
