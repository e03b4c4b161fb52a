import type { Language } from './language.ts';

/** The channel types in words, by their number. */
const names: readonly (readonly [en: string, zh: string])[] = [
  ['Several receivers', '多个接收方'],
  ['Person', '个人'],
  ['Group', '群组'],
  ['Customer service', '客服'],
  ['Community', '社区'],
  ['Community topic', '社区话题'],
  ['Information', '资讯'],
  ['Data', '数据'],
  ['Temporary', '临时'],
  ['Live stream', '直播'],
  ['Visitor', '访客'],
  ['Agent', '智能体'],
  ['Agent group', '智能体群组'],
];

/** The numbers of the types that a channel can have. */
export const channelTypes: readonly number[] = names.slice(1).map((_, index) => index + 1);

export function channelTypeName(type: number, language: Language): string {
  return names[type]?.[language === 'zh' ? 1 : 0] ?? String(type);
}
