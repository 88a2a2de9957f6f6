/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Empty: bcc brings its own, and a second one would collide with it. */
