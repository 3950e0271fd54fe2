// Makes a component of src/plugin.js: the contract in wit/, a JavaScript engine and the source, in one file.

import { componentize } from '@bytecodealliance/componentize-js';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';

const { name } = JSON.parse(await readFile('package.json', 'utf8'));
const { component } = await componentize({ sourcePath: 'src/plugin.js', witPath: 'wit', worldName: 'plugin' });
await mkdir('dist', { recursive: true });
// In one step: a running host takes a changed file for a new plugin.
await writeFile(`dist/${name}.wasm.new`, component);
await rename(`dist/${name}.wasm.new`, `dist/${name}.wasm`);
