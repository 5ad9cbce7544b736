// Ready-made rules of a LoRA for the models that people have.
import { say } from './say.js'

/** @typedef {{ name: string, text: string, means: string }} Preset */

const any = () => [
  { name: 'all', text: '* -> 1', means: say('The whole LoRA, as Load LoRA gives it') },
  { name: 'late', text: '* 0-30% -> 0\n* -> 1', means: say('Not while the composition is found') },
  { name: 'early', text: '* 0-50% -> 1\n* -> 0', means: say('Composition without the details') },
  { name: 'INALL', text: 'input -> 1\n* -> 0', means: say('What comes before the middle') },
  { name: 'MIDD', text: 'middle -> 1\n* -> 0', means: say('The middle') },
  { name: 'OUTALL', text: 'output -> 1\n* -> 0', means: say('What comes behind the middle') }
]
const sd1 = () => [
  { name: 'INS', text: 'input:1-2 -> 1\n* -> 0', means: say('Shallow blocks before the middle') },
  { name: 'IND', text: 'input:5-8 -> 1\n* -> 0', means: say('Deep blocks before the middle') },
  { name: 'MIDD', text: 'input:5-8, middle, output:3-6 -> 1\n* -> 0', means: say('The middle with the deep blocks around it') },
  { name: 'OUTD', text: 'output:3-6 -> 1\n* -> 0', means: say('Deep blocks behind the middle') },
  { name: 'OUTS', text: 'output:7-11 -> 1\n* -> 0', means: say('Shallow blocks behind the middle') }
]
const sdxl = () => [
  { name: 'style', text: 'output:1 -> 1\n* -> 0', means: say('The block that B-LoRA and InstantStyle name for style') },
  { name: 'content', text: 'output:0 -> 1\n* -> 0', means: say('The block that B-LoRA names for content') },
  { name: 'free layout', text: 'input:8 -> 0\n* -> 1', means: say('Without the block that InstantStyle names for layout') }
]
const streams = () => [
  { name: 'double', text: 'double -> 1\n* -> 0', means: say('Blocks with text and picture apart') },
  { name: 'single', text: 'single -> 1\n* -> 0', means: say('Blocks with text and picture together') }
]
const OWN = [
  { attends: 'input:1,input:2,input:4,input:5,input:7,input:8,middle,output:3,output:4,output:5,output:6,output:7,output:8,output:9,output:10,output:11', presets: sd1 },
  { attends: 'input:4,input:5,input:7,input:8,middle,output:0,output:1,output:2,output:3,output:4,output:5', presets: sdxl }
]

/**
 * Return the ready-made rules for a model.
 * @param {import('./address.js').Block[]} blocks none where they are not known
 * @returns {Preset[]}
 */
export function presets(blocks) {
  const attends = blocks.filter(({ depth }) => depth).map(({ name }) => name).join(',')
  const types = new Set(blocks.map(({ type }) => type))
  const own = OWN.find((one) => one.attends === attends)?.presets() ?? (types.has('double') && types.has('single') ? streams() : [])
  return [...any().filter(({ name }) => !own.some((one) => one.name === name)), ...own]
}
