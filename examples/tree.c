/*
 * tree: walks a syntax tree. The interpreter is one recursive function, with a call for every node:
 *
 *     while (0 < n) { sum = sum + n * n; n = n + -1; }
 *
 * The anchor is in the loop statement, whose node is the loop's id. A recording follows all calls, and in the optimised
 * trace nothing is left of them: their frames are pushed and popped within one iteration, and the tree is declared
 * immutable, so that it is known which function returns where. What remains is the program's own arithmetic and one test.
 * Usage: tree [number...]
 */
#include "redmagic.h"
#include <stdio.h>
#include <stdlib.h>

enum kind { NUMBER, VARIABLE, ASSIGN, PLUS, TIMES, LESS, SEQUENCE, WHILE };

/* `value` is a number, or which variable is meant. */
struct node {
    enum kind kind;
    long value;
    const struct node *left, *right;
};

static long evaluate(const struct node *node, long *variables) {
    switch (node->kind) {
    case NUMBER:
        return node->value;
    case VARIABLE:
        return variables[node->value];
    case ASSIGN:
        return variables[node->value] = evaluate(node->left, variables);
    case PLUS:
        return evaluate(node->left, variables) + evaluate(node->right, variables);
    case TIMES:
        return evaluate(node->left, variables) * evaluate(node->right, variables);
    case LESS:
        return evaluate(node->left, variables) < evaluate(node->right, variables);
    case SEQUENCE:
        evaluate(node->left, variables);
        return evaluate(node->right, variables);
    default:
        while (evaluate(node->left, variables) != 0) {
            evaluate(node->right, variables);
            REDMAGIC_BACKWARDS_BRANCH(node);
        }
        return 0;
    }
}

/* The nodes of the tree, which grows upwards from its leaves. */
static struct node nodes[32];
static int used;

static const struct node *make(enum kind kind, long value, const struct node *left, const struct node *right) {
    struct node *node = &nodes[used++];
    *node = (struct node){kind, value, left, right};
    return node;
}

static const struct node *number(long value) { return make(NUMBER, value, NULL, NULL); }
static const struct node *variable(long which) { return make(VARIABLE, which, NULL, NULL); }
static const struct node *assign(long which, const struct node *value) { return make(ASSIGN, which, value, NULL); }
static const struct node *binary(enum kind kind, const struct node *left, const struct node *right) {
    return make(kind, 0, left, right);
}

int main(int argc, char **argv) {
    enum { N, SUM };
    redmagic_start();
    redmagic_configure("memory_model", "interpreter-lock"); /* there is one thread */
    const struct node *square = binary(TIMES, variable(N), variable(N));
    const struct node *body = binary(SEQUENCE, assign(SUM, binary(PLUS, variable(SUM), square)),
                                     assign(N, binary(PLUS, variable(N), number(-1))));
    const struct node *program = binary(WHILE, binary(LESS, number(0), variable(N)), body);
    redmagic_assume_immutable(nodes, sizeof nodes);
    for (int at = 1; at < argc || at == 1; at++) {
        long variables[2] = {argc > 1 ? atol(argv[at]) : 20000, 0};
        evaluate(program, variables);
        printf("%ld\n", variables[SUM]);
    }
    return 0;
}
